"""Colour palettes (4M-21, Bachmann et al. 2024, sec. 3.1)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import PaletteConfig

_PIXELS = 2500  # that count, in a regular grid: a palette says nothing of details
_SHIFT = 5  # colours that agree in their upper three bits are averaged first
_ROUNDS = 3


class Palette:
    """Photographs to JSON, size of the palette -> its colours, the most frequent first."""

    def __init__(self, config: PaletteConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [json.dumps(palettes(photo.image, self.config.max_colors)).encode() for photo in photos]


def palettes(image: NDArray[np.uint8], max_colors: int) -> dict[str, list[list[int]]]:
    """Palettes of every size by k-means. Each starts from the one before and the colour it fits worst (global k-means,
    Likas et al. 2003), so that nothing is random.

    Args:
        image: (H, W, 3) RGB.
        max_colors: largest size.

    Returns:
        size -> [r, g, b] of each colour, from 0 to 255, the most frequent first. An image of fewer colours repeats
        them.
    """
    points, weights = _colors(image)
    masses = np.concatenate([weights * points, weights], 1)
    centers = np.average(points, 0, weights[:, 0])[None]
    found = {"1": np.rint(centers).astype(int).tolist()}
    nearest, columns = np.zeros(len(points), int), np.ascontiguousarray(points.T)
    for size in range(2, max_colors + 1):
        error = weights[:, 0] * np.square(points - centers[nearest]).sum(1)
        centers = np.concatenate([centers, points[error.argmax()][None]])
        kinds = np.arange(size)[:, None]
        for _ in range(_ROUNDS):
            nearest = (centers @ columns - 0.5 * np.square(centers).sum(1, keepdims=True)).argmax(0)
            total = (nearest == kinds).astype(np.float64) @ masses
            # A colour that is nearest to none stays where it is.
            centers = np.where(total[:, 3:] > 0, total[:, :3] / np.maximum(total[:, 3:], 1), centers)
        order = np.argsort(-total[:, 3], kind="stable")
        found[str(size)] = np.rint(centers[order]).astype(int).tolist()
    return found


def _colors(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The colours (n, 3) of an image, and how many of the pixels that count have each of them (n, 1)."""
    step = max(1, round((image.shape[0] * image.shape[1] / _PIXELS) ** 0.5))
    pixels = np.ascontiguousarray(image[step // 2 :: step, step // 2 :: step].reshape(-1, 3).T)
    red, green, blue = (pixels >> _SHIFT).astype(np.int64)
    bins = (red << 2 * _SHIFT) + (green << _SHIFT) + blue
    counts = np.bincount(bins)
    used = np.flatnonzero(counts)
    weights = counts[used][:, None].astype(np.float64)
    sums = np.stack([np.bincount(bins, channel)[used] for channel in pixels], 1)
    return sums / weights, weights
