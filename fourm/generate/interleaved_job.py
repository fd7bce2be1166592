"""Questions to models that read and write text and images: files in, text and files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate import files
from fourm.generate.bundle import Bundle
from fourm.generate.chain import following_seeds
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import phrases_of
from fourm.generate.results import check_folder, make_folder
from fourm.generate.shots import Example, nearest, one_of_each, open_shots
from fourm.generate.subjects import Subject
from fourm.tokens import Segment

_RETRIEVED = 4
_MAX_TOKENS = 64


@dataclass(frozen=True)
class Asked:
    """What a user asks of a model.

    Args:
        text: read as it is, with `<image>` where images stand.
        question: about the images.
        draw: an image of this text is asked for, or one like the given image; empty with several blends them.
        subjects: words of what is drawn, with how they look and where they are to be.
        autoencode: file of an image that is painted anew from its vectors alone.
        images: files.
        examples: file, question and answer, which are shown before a question.
        many_examples: file or folder of further ones, see `open_shots`; of every image one is shown.
        retrieve: show so many of the examples, those whose images are most like the first one; None: all that are
            given one by one, and of many 4.
        phrases: name of the phrases that questions are put in; None: those of the model.
        start: token before the prompt; empty: none; None: that of the model.
        bare_images: images stand without `[IMG]` and `[/IMG]` around them, as in VILA; None: as the model has it.
        system: words before a conversation; empty: none; None: those of the model.
        guided: see `Interleaved.draw`.
        turns: what was asked and answered before the question, in a conversation.
        max_images: most images that the model may write into its answer, where it chooses to.
    """

    text: str | None = None
    question: str | None = None
    draw: str | None = None
    subjects: tuple[Subject, ...] = ()
    autoencode: Path | None = None
    images: tuple[Path, ...] = ()
    examples: tuple[tuple[Path, str, str], ...] = ()
    many_examples: Path | None = None
    retrieve: int | None = None
    phrases: str | None = None
    start: str | None = None
    system: str | None = None
    guided: bool = False
    bare_images: bool | None = None
    turns: tuple[tuple[str, str], ...] = ()
    max_images: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("text", "question", "draw", "autoencode") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"--{given[0]} and --{given[1]} are both given: ask one thing at a time")
        if self.subjects and (self.draw is None or self.images):
            raise ConfigError(
                "--subject says how words of --draw look and where they are: give the text with --draw, and images as "
                "--subject WORDS=FILE, not with --image"
            )
        if self.autoencode is not None and self.images:
            raise ConfigError("--autoencode paints one image anew: leave --image out, or ask for another with --draw")
        if self.question is not None and not self.question.strip():
            raise ConfigError("the question is empty: write one, or leave it out to have the images described")
        if self.guided and not (self.paints or self.max_images):
            raise ConfigError(
                "--guided is of images that are painted: leave it out, or ask for some with --draw, --autoencode or "
                "--max-images"
            )
        if self.max_images and self.paints:
            raise ConfigError(
                "--max-images is of answers in words, with images where the model chooses them: leave it out, or ask "
                "with --question or --text"
            )
        if self.retrieve is not None and not (self.examples or self.many_examples):
            raise ConfigError("--retrieve chooses of examples, but there are none: give --examples or --example")
        if self.retrieve is not None and not self.images:
            raise ConfigError("--retrieve chooses examples by their likeness to the first --image: give one")
        if (self.examples or self.many_examples) and self.question is None:
            raise ConfigError("--example and --examples are shown before a question: give --question")
        if self.many_examples and not self.images:
            raise ConfigError("--examples are chosen by their likeness to the first --image: give one")
        if self.turns and (self.question is None or self.examples or self.many_examples):
            raise ConfigError("--turn goes before a --question, and without examples")
        if not given and not self.images:
            raise ConfigError(
                "there is nothing to ask: give --text, --question, --draw, --autoencode, or an --image to describe"
            )

    @property
    def paints(self) -> bool:
        """Whether images are asked for, and not words."""
        return self.draw is not None or self.autoencode is not None


def writing_of(
    asked: Asked,
    *,
    num_samples: int = 1,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
    max_tokens: int | None = None,
) -> RowWriting:
    """How words are chosen, as the command line says it; None: not given.

    Args:
        asked: what for.
        num_samples: answers.
        temperature: 0 takes the likeliest, which is also the default.
        top_k, top_p: see `RowWriting`.
        beams: `num_beams`.
        max_tokens: see `RowWriting`; default 64.

    Raises:
        ConfigError: if an option would change nothing, or all samples would be the same.
    """
    options = {"temperature": temperature, "top-k": top_k, "top-p": top_p, "beams": beams, "max-tokens": max_tokens}
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if asked.paints and given:
        raise ConfigError(
            f"an image alone is asked for, but {', '.join(given)} say how words are chosen: leave them out"
        )
    if not temperature and (top_k is not None or top_p is not None):
        raise ConfigError(
            "--top-k and --top-p limit what words are drawn from, but the likeliest are taken: give --temperature 1 too"
        )
    if not (temperature or asked.paints or asked.max_images) and num_samples > 1:
        raise ConfigError(
            f"{num_samples} samples are asked for, but the likeliest words are the same for every seed: give "
            "--temperature 1 to draw them, or leave --num-samples out"
        )
    return RowWriting(
        temperature or 0.0, top_k, top_p, beams or 1, max_tokens=_MAX_TOKENS if max_tokens is None else max_tokens,
        max_images=asked.max_images,
    )  # fmt: skip


def prompt(bundle: Bundle, asked: Asked, out: Path | None, **options: Any) -> list[str]:
    """Answer as `answers` does.

    Returns:
        the texts and the names of the files written, one after the other.

    Raises:
        ConfigError, DataError: as of `answers`.
    """
    return [str(part) for parts in answers(bundle, asked, out, **options) for part in parts]


def answers(
    bundle: Bundle,
    asked: Asked,
    out: Path | None,
    *,
    num_samples: int,
    seed: int,
    writing: RowWriting,
    stems: Sequence[str] = (),
) -> list[list[str | Path]]:
    """Answer with text, or paint, or both in the order in which the model writes them.

    Args:
        bundle: model and tokenizers.
        asked: what.
        out: folder for images.
        num_samples: answers, each with its own seed.
        seed: of the first.
        writing: how text is generated.
        stems: names of the files without extension; empty: the seeds. Images that the model chose to write have their
            number behind it.

    Returns:
        of each sample its texts and the files written.

    Raises:
        ConfigError: if the model cannot answer so, or images have no folder.
        DataError: if a file cannot be read.
    """
    model = Interleaved(bundle, **form_options(asked.start, asked.phrases, asked.bare_images, asked.system))
    seeds = following_seeds(seed, num_samples)
    if not (asked.paints or asked.max_images):
        return [[text] for text in model.answer([_document(model, asked)] * num_samples, seeds, writing)]
    if out is None:
        raise ConfigError("images are asked for: give the folder for them with --out")
    check_folder(out)
    made = _parts(model, asked, seeds, writing)
    raw: Any = bundle.tokenizers[model.row.image or ""].modality
    make_folder(out)
    stems = stems or [str(seed + number) for number in range(num_samples)]
    return [_written(raw, answer, out, stem, asked.paints) for answer, stem in zip(made, stems, strict=True)]


def _parts(model: Interleaved, asked: Asked, seeds: Tensor, writing: RowWriting) -> list[list[str | Tensor]]:
    """Texts and images (C, H, W) in natural units of each sample."""
    if asked.autoencode is not None:
        images = [model.read(asked.autoencode)] * len(seeds)
        return [[value] for value in model.rebuild(images, seeds, guided=asked.guided)]
    prompts = [_document(model, asked)] * len(seeds)
    if asked.paints:
        return [[value] for value in model.draw(prompts, seeds, guided=asked.guided)]
    return model.write(prompts, seeds, writing, guided=asked.guided)


def _written(raw: Any, answer: Sequence[str | Tensor], out: Path, stem: str, is_alone: bool) -> list[str | Path]:
    """An answer with its images as files; one that is alone has no number."""
    parts, count = list[str | Path](), 0
    for part in answer:
        if isinstance(part, str):
            parts.append(part)
        else:
            parts += files.write(raw, part, out, stem if is_alone else f"{stem}_{count}")
            count += 1
    return parts


def _document(model: Interleaved, asked: Asked) -> list[Segment]:
    """What the model reads."""
    images = [model.read(path) for path in asked.images]
    subjects = [
        (
            subject.words,
            None if subject.box is None else model.box_image(subject.box),
            None if subject.image is None else model.read(subject.image),
        )
        for subject in asked.subjects
    ]
    return write_prompt(
        model, text=asked.text, question=asked.question, draw=asked.draw, subjects=subjects, images=images,
        turns=asked.turns, examples=_examples(model, asked, images),
    )  # fmt: skip


def form_options(
    start: str | None = None,
    phrases: str | Mapping[str, Any] | None = None,
    bare_images: bool | None = None,
    system: str | None = None,
) -> dict[str, Any]:
    """Options of `Interleaved` for prompts in another form than that of the model's documents; see `Asked`."""
    options: dict[str, Any] = {}
    if start is not None:
        options["start"] = start or None
    if phrases is not None:
        options["phrases"] = phrases_of(phrases)
    if system is not None:
        options["system"] = system
    if bare_images is not None:
        options |= {"begin": None, "end": None} if bare_images else {"begin": "[IMG]", "end": "[/IMG]"}
    return options


def write_prompt(
    model: Interleaved,
    *,
    text: str | None = None,
    question: str | None = None,
    draw: str | None = None,
    subjects: Sequence[tuple[str, Tensor | None, Tensor | None]] = (),
    images: Sequence[Tensor] = (),
    examples: Sequence[Example] = (),
    turns: Sequence[tuple[str, str]] = (),
) -> list[Segment]:
    """What a model reads of what is asked; see `Asked`. Without words, what the images show is asked."""
    if text is not None:
        return model.prompt(text, images)
    if draw is not None:
        if subjects:
            return model.composing(subjects, draw)
        if not images:
            return model.drawing(draw)
        return model.editing(images[0], draw) if len(images) == 1 else model.blending(images, draw)
    if question is None:
        return model.caption(*images) if images else model.prompt("")
    if turns:
        return model.chat([*turns, (question, "")], images)
    return model.question(question, images, examples)


def _examples(model: Interleaved, asked: Asked, images: Sequence[Tensor]) -> list[Example]:
    """Those that are shown before a question, in the order in which they are shown."""
    shown = [(model.read(path), question, answer) for path, question, answer in asked.examples]
    question = asked.question or ""
    many = [] if asked.many_examples is None else one_of_each(open_shots(asked.many_examples), question)
    most = asked.retrieve if asked.retrieve is not None or not many else _RETRIEVED
    if most is None or not images or not (shown or many):
        return shown
    looks = chain((image for image, _, _ in shown), (shot.read(model) for shot in many))
    chosen = nearest(model, images[0], looks, most)
    return [shown[n] if n < len(shown) else many[n - len(shown)].shown(model, question) for n in chosen]
