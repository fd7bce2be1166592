"""`fourm generate` of models of text and images: what is given, by its modality, as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from fourm.errors import ConfigError, DataError
from fourm.files import publish
from fourm.generate.bundle import Bundle, get_ready
from fourm.generate.interleaved_job import Asked, answers, writing_of
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.names import resolve
from fourm.generate.phrases import IMAGE
from fourm.generate.reading import parse_given, read_text
from fourm.generate.results import check_folder, make_folder
from fourm.generate.written import replace_written


def run(
    bundle: Bundle,
    *,
    given: Sequence[str],
    targets: Sequence[str],
    out: Path,
    num_samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    decoder_steps: int | None = None,
    decoder_scheduler: str | None = None,
    bf16: bool = False,
    asking: Mapping[str, Any] = MappingProxyType({}),
    words: Mapping[str, Any] = MappingProxyType({}),
    **others: Any,
) -> list[Path]:
    """Text of images and words, an image of them, or both; the same answers as those of `fourm prompt`.

    Args:
        bundle: model and tokenizers.
        given: `NAME=VALUE` of the model's text and images, of which several have labels: `image#second=b.png`.
        targets: the text, the image modality, or both: text with images where the model chooses them.
        out: folder for the results.
        num_samples, seed, device, decoder_steps, decoder_scheduler, bf16: see `fourm.generate.job.run`.
        asking: further arguments of `Asked`.
        words: arguments of `writing_of`.
        others: options that are for other models.

    Returns:
        the files written, named by the targets.

    Raises:
        ConfigError: if something is asked that is for other models.
        DataError: for files that are missing or damaged.
    """
    names = _targets(bundle, targets, others)
    images, text = _given(bundle, parse_given(given))
    row = Interleaved(bundle).row
    asked = _asked(asking, images, text, wants_text=row.text in names, wants_image=row.image in names)
    writing = writing_of(asked, num_samples=num_samples, **words)
    check_folder(out)
    chosen = get_ready(
        bundle,
        dict.fromkeys(names),
        device,
        bf16=bf16,
        decoder_steps=decoder_steps,
        decoder_scheduler=decoder_scheduler,
    )
    ends = [""] if num_samples == 1 else [f"_{number:02d}" for number in range(num_samples)]
    with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
        made = answers(
            bundle, asked, out, num_samples=num_samples, seed=seed, writing=writing,
            stems=[(row.image or "") + end for end in ends],
        )  # fmt: skip
    make_folder(out)
    paths = [path for answer, end in zip(made, ends) for path in _written(answer, out / f"{row.text}{end}.txt", asked)]
    replace_written(paths)
    return paths


def _asked(
    asking: Mapping[str, Any], images: tuple[Path, ...], text: str | None, *, wants_text: bool, wants_image: bool
) -> Asked:
    """What `fourm prompt` would be asked."""
    options = dict(asking)
    if options.get("subjects") and (wants_text or text is None):
        raise ConfigError(
            "--subject says how words of a text look and where they are: give it, --given text='a room with a red "
            "chair', and --to the images"
        )
    if options.get("autoencode") is not None:
        if wants_text or images or text is not None:
            raise ConfigError("--autoencode paints one image anew: leave out --given, and give --to the images")
        return Asked(**options)
    if not wants_text:
        return Asked(images=images, draw=text or "", **options)
    if wants_image:
        options["max_images"] = options.get("max_images") or 1
    elif options.get("max_images"):
        raise ConfigError("--max-images lets images be among the words of an answer: name them too, --to text,image")
    return Asked(images=images, question=text, **options)


def _written(answer: Sequence[str | Path], place: Path, asked: Asked) -> list[Path]:
    """The files of an answer; images that stand among words have their places `<image>` in them."""
    painted = [part for part in answer if isinstance(part, Path)]
    if asked.paints:
        return painted
    text = " ".join(IMAGE if isinstance(part, Path) else part for part in answer)
    publish(place, f"{text}\n".encode())
    return [place, *painted]


def _targets(bundle: Bundle, targets: Sequence[str], others: Mapping[str, Any]) -> set[str]:
    """The names of what is made."""
    stray = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    modalities = bundle.model.modalities
    made = {resolve(name.strip(), [*modalities.values()], "generate").name for name in targets}
    if stray or not made:
        raise ConfigError(
            f"this model answers one row of text and images with {', '.join(modalities)}: leave out "
            f"{', '.join(stray) or 'all else, and name one of these'}, or ask with fourm prompt "
            f'{bundle.place or "MODEL"} --image a.png --question "What is it?"'
        )
    return made


def _given(bundle: Bundle, given: Mapping[str, str]) -> tuple[tuple[Path, ...], str | None]:
    """Files of images, and the text, or what its file holds."""
    images, words = list[Path](), None
    row, modalities = Interleaved(bundle).row, bundle.model.modalities
    for name, value in given.items():
        if resolve(name, [*modalities.values()], "read").name != row.text:
            images.append(Path(value))
        elif words is not None:
            raise ConfigError(f"--given {name}: the text is given twice; give one")
        else:
            words = str(read_text(Path(value), value, modalities[row.text])).strip()
            if not words:
                raise DataError(f"--given {name}: the text is empty; leave {name} out if there is none")
    return tuple(images), words
