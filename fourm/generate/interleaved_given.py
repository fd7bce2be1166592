"""`fourm generate` of models of text and images: what is given, by its modality, as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fourm.errors import ConfigError
from fourm.files import publish
from fourm.generate.bundle import Bundle, get_ready
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import Asked, prompt
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.names import resolve
from fourm.generate.reading import parse_given
from fourm.generate.results import check_folder, make_folder
from fourm.generate.subjects import Subject
from fourm.generate.written import replace_written

_MAX_TOKENS = 64


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
    subjects: Sequence[Subject] = (),
    autoencode: Path | None = None,
    guided: bool = False,
    **others: Any,
) -> list[Path]:
    """Text of images and words, or an image of them; the same answers as those of `fourm prompt`.

    Args:
        bundle: model and tokenizers.
        given: `NAME=VALUE` of the model's text and images, of which several have labels: `image#second=b.png`.
        targets: the text or the image modality.
        out: folder for the results.
        num_samples, seed, device, decoder_steps, decoder_scheduler, bf16: see `fourm.generate.job.run`.
        subjects, autoencode, guided: see `Asked`.
        others: options that are for other models.

    Returns:
        the files written, named by the target.

    Raises:
        ConfigError: if something is asked that is for other models.
        DataError: for files that are missing or damaged.
    """
    name, is_text = _target(bundle, targets, others)
    images, words = _given(bundle, parse_given(given))
    if subjects and (is_text or words is None):
        raise ConfigError(
            "--subject says how words of a text look and where they are: give it, --given text='a room with a red "
            "chair', and --to the images"
        )
    if autoencode is not None and (is_text or images or words is not None):
        raise ConfigError("--autoencode paints one image anew: leave out --given, and give --to the images")
    if is_text:
        asked = Asked(images=images, question=words)
    elif autoencode is not None:
        asked = Asked(autoencode=autoencode, guided=guided)
    else:
        asked = Asked(images=images, draw=words or "", subjects=tuple(subjects), guided=guided)
    check_folder(out)
    chosen = get_ready(
        bundle, {name: None}, device, bf16=bf16, decoder_steps=decoder_steps, decoder_scheduler=decoder_scheduler
    )
    ends = [""] if num_samples == 1 else [f"_{number:02d}" for number in range(num_samples)]
    with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
        found = prompt(
            bundle, asked, out, num_samples=num_samples, seed=seed, writing=RowWriting(max_tokens=_MAX_TOKENS),
            stems=[name + end for end in ends],
        )  # fmt: skip
    make_folder(out)
    paths = [Path(path) for path in found] if asked.paints else [out / f"{name}{end}.txt" for end in ends]
    for path, text in zip(paths, () if asked.paints else found):
        publish(path, f"{text}\n".encode())
    replace_written(paths)
    return paths


def _target(bundle: Bundle, targets: Sequence[str], others: Mapping[str, Any]) -> tuple[str, bool]:
    """The name of what is made, and whether that is text."""
    stray = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    modalities = bundle.model.modalities
    made = [resolve(name.strip(), [*modalities.values()], "generate").name for name in targets]
    if stray or len(made) != 1:
        raise ConfigError(
            f"this model answers one row of text and images with one of {', '.join(modalities)}: leave out "
            f"{', '.join(stray) or 'all targets but one'}, or ask with fourm prompt "
            f'{bundle.place or "MODEL"} --image a.png --question "What is it?"'
        )
    return made[0], made[0] == Interleaved(bundle).row.text


def _given(bundle: Bundle, given: Mapping[str, str]) -> tuple[tuple[Path, ...], str | None]:
    """Files of images, and the text."""
    images, words = list[Path](), None
    row, modalities = Interleaved(bundle).row, bundle.model.modalities
    for name, value in given.items():
        if resolve(name, [*modalities.values()], "read").name != row.text:
            images.append(Path(value))
        elif words is not None:
            raise ConfigError(f"--given {name}: the text is given twice; give one")
        else:
            words = value
    return tuple(images), words
