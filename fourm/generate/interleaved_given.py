"""`fourm generate` of models of text and images: what is given, by its modality, as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.errors import ConfigError
from fourm.files import publish
from fourm.generate.bundle import Bundle, move, set_decoding
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import Asked, prompt
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.names import resolve
from fourm.generate.reading import parse_given
from fourm.generate.results import check_folder, make_folder
from fourm.generate.written import replace_written
from fourm.machine import choose_device

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
    **others: Any,
) -> list[Path]:
    """Text of images and words, or an image of them; the same answers as those of `fourm prompt`.

    Args:
        bundle: model and tokenizers.
        given: `NAME=VALUE` of the model's text and images, of which several have labels: `image#second=b.png`.
        targets: the text or the image modality.
        out: folder for the results.
        num_samples, seed, device, decoder_steps, decoder_scheduler, bf16: see `fourm.generate.job.run`.
        others: options that are for other models.

    Returns:
        the files written, named by the target.

    Raises:
        ConfigError: if something is asked that is for other models.
        DataError: for files that are missing or damaged.
    """
    asked, name = _asked(bundle, parse_given(given), targets, others)
    check_folder(out)
    sampling = {"num_steps": decoder_steps, "scheduler": decoder_scheduler}
    set_decoding(bundle, {name: None}, sampling={k: v for k, v in sampling.items() if v is not None}, bf16=bf16)
    move(bundle, choose_device(device))
    writing = RowWriting(max_tokens=_MAX_TOKENS)
    ends = [""] if num_samples == 1 else [f"_{number:02d}" for number in range(num_samples)]
    found = prompt(
        bundle, asked, out, num_samples=num_samples, seed=seed, writing=writing, stems=[name + end for end in ends]
    )
    make_folder(out)
    paths = [Path(path) for path in found] if asked.draw is not None else [out / f"{name}{end}.txt" for end in ends]
    for path, text in zip(paths, found if asked.draw is None else ()):
        publish(path, f"{text}\n".encode())
    replace_written(paths)
    return paths


def _asked(
    bundle: Bundle, given: Mapping[str, str], targets: Sequence[str], others: Mapping[str, Any]
) -> tuple[Asked, str]:
    """What is given as a question or an order, and the name of what is made."""
    row = Interleaved(bundle).row
    stray = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    modalities = bundle.model.modalities
    made = [resolve(name.strip(), [*modalities.values()], "generate").name for name in targets]
    if stray or len(made) != 1:
        raise ConfigError(
            f"this model answers one row of text and images with one of {', '.join(modalities)}: leave out "
            f"{', '.join(stray) or 'all targets but one'}, or ask with fourm prompt "
            f'{bundle.place or "MODEL"} --image a.png --question "What is it?"'
        )
    images, words = list[Path](), None
    for name, value in given.items():
        if resolve(name, [*modalities.values()], "read").name != row.text:
            images.append(Path(value))
        elif words is not None:
            raise ConfigError(f"--given {name}: the text is given twice; give one")
        else:
            words = value
    asked = Asked(images=tuple(images), question=words)
    return (asked if made[0] == row.text else replace(asked, question=None, draw=words or "")), made[0]
