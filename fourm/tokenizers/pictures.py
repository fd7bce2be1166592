"""What a tokenizer makes of samples, for the training log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from fourm.report.grid import grid
from fourm.report.pictures import draw
from fourm.tokenizers.units import to_natural


def reconstructions(
    tokenizer: Any, inputs: Tensor, seeds: Tensor, num_steps: int, given: Mapping[str, Tensor] | None = None
) -> Image.Image:
    """Originals beside what comes back when they are encoded and decoded.

    Args:
        tokenizer: of any family, in inference mode.
        inputs: (B, C, H, W) normalised values or (B, H, W) labels, where the tokenizer is.
        seeds: (B,) int64, of what a decoder draws.
        num_steps: most steps of a diffusion decoder.
        given: vectors beside the images, of a tokenizer that does not make them itself.
    """
    modality = tokenizer.modality
    originals = inputs if modality.is_discrete else to_natural(inputs, modality)
    with _few_steps(tokenizer, num_steps):
        images = tokenizer.decode(tokenizer.encode(inputs, *([given] if given else [])), seeds=seeds)
    pairs = zip(originals, images, strict=True)
    cells = [[draw(modality, original), draw(modality, image, like=original)] for original, image in pairs]
    return grid(cells, columns=["original", "reconstruction"])


@contextmanager
def _few_steps(tokenizer: Any, num_steps: int) -> Iterator[None]:
    before = getattr(tokenizer, "sampling", None)
    if before is None:
        yield
        return
    tokenizer.sampling = replace(before, num_steps=min(num_steps, before.num_steps))
    try:
        yield
    finally:
        tokenizer.sampling = before
