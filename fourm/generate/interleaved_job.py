"""`fourm prompt` of models that read and write text and images: files in, text and files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate import files
from fourm.generate.bundle import Bundle
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import phrases_of
from fourm.generate.shots import Example, nearest, one_of_each, open_shots
from fourm.generate.subjects import Subject
from fourm.tokens import Segment

_RETRIEVED = 4


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


def prompt(
    bundle: Bundle,
    asked: Asked,
    out: Path | None,
    *,
    num_samples: int,
    seed: int,
    writing: RowWriting,
    stems: Sequence[str] = (),
) -> list[str]:
    """Answer with text, or paint.

    Args:
        bundle: model and tokenizers.
        asked: what.
        out: folder for images.
        num_samples: answers, each with its own seed.
        seed: of the first.
        writing: how text is generated.
        stems: names of the files without extension; empty: the seeds.

    Returns:
        the texts, or the files written.

    Raises:
        ConfigError: if the model cannot answer so, or images have no folder.
        DataError: if a file cannot be read.
    """
    model = Interleaved(bundle, **form_options(asked.start, asked.phrases, asked.bare_images, asked.system))
    seeds = torch.arange(seed, seed + num_samples)
    if not asked.paints:
        return model.answer([_document(model, asked)] * num_samples, seeds, writing)
    if out is None:
        raise ConfigError("images are asked for: give the folder for them with --out")
    if asked.autoencode is not None:
        values = model.rebuild([model.read(asked.autoencode)] * num_samples, seeds, guided=asked.guided)
    else:
        values = model.draw([_document(model, asked)] * num_samples, seeds, guided=asked.guided)
    raw: Any = bundle.tokenizers[model.row.image or ""].modality
    out.mkdir(parents=True, exist_ok=True)
    stems = stems or [str(seed + number) for number in range(num_samples)]
    written = [files.write(raw, value, out, stem) for value, stem in zip(values, stems, strict=True)]
    return [str(path) for paths in written for path in paths]


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
