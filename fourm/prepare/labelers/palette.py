"""Colour palettes (4M-21, Bachmann et al. 2024, sec. 3.1)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import PaletteConfig

_SIDE = 48  # pixels of the thumbnail whose colours count: a palette says nothing of details
_ROUNDS = 10


class Palette:
    """Photographs to JSON, size of the palette -> its colours, the most frequent first."""

    def __init__(self, config: PaletteConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [json.dumps(palettes(photo.image, self.config.max_colors)).encode() for photo in photos]


def palettes(image: NDArray[np.uint8], max_colors: int) -> dict[str, list[list[int]]]:
    """Palettes of every size by k-means, which starts from a median cut, so that nothing is random.

    Args:
        image: (H, W, 3) RGB.
        max_colors: largest size.

    Returns:
        size -> [r, g, b] of each colour, from 0 to 255. An image of fewer colours repeats its most frequent one.
    """
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    found = {}
    for size in range(1, max_colors + 1):
        cut = small.quantize(size, Image.Quantize.MEDIANCUT, kmeans=_ROUNDS, dither=Image.Dither.NONE)
        table = cut.getpalette() or []
        counts: list[tuple[int, int]] = cut.getcolors() or []  # type: ignore[assignment]
        frequent = sorted(counts, key=lambda entry: (-entry[0], entry[1]))
        colors = [table[3 * index : 3 * index + 3] for _, index in frequent]
        found[str(size)] = (colors + [colors[0]] * size)[:size]
    return found
