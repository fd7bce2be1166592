"""Subjects that are cut out: images with transparency, whose ground and frame are no part of what they show.

Emu2-Gen (Sun et al. 2024, sec. 2.3.3) learns from subjects on random backgrounds and in random crops, so that it takes
over the subject and not the picture around it. How often, and what backgrounds, is not published.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fourm.data.images import open_image


def opacity(data: bytes) -> NDArray[np.float32] | None:
    """(H, W) how much of each pixel belongs to the subject, 0 to 1; None of an image without transparency.

    Args:
        data: the file of an image that can be decoded.
    """
    with open_image(data) as file:
        if not file.has_transparency_data:
            return None
        alpha = np.asarray(file.convert("RGBA"), np.float32)[..., 3] / np.float32(255)
    return alpha if alpha.min() < 1 else None


def vary(
    data: bytes, pixels: NDArray[np.uint8], background: float, crop: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A subject on another ground and in another frame; other images as they are, and then nothing is drawn.

    Args:
        data: the file.
        pixels: (H, W, C), or grey (H, W), what it holds; transparency is left out of account.
        background: probability of one random colour in place of what lies around the subject.
        crop: smallest share of the area that is cut out, in the shape of the whole.
        rng: source of all randomness.
    """
    alpha = opacity(data)
    if alpha is None:
        return pixels
    if rng.random() < background:
        colour = rng.integers(0, 256, pixels.shape[2:])
        alpha = alpha.reshape(alpha.shape + (1,) * (pixels.ndim - 2))
        pixels = np.round(alpha * pixels + (1 - alpha) * colour).astype(np.uint8)
    if crop < 1:
        pixels = _crop(pixels, rng.uniform(crop, 1.0), rng)
    return pixels


def _crop(pixels: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A part of so large a share of the area, anywhere."""
    height, width = (max(1, round(side * math.sqrt(share))) for side in pixels.shape[:2])
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(pixels.shape, (height, width)))
    return pixels[top : top + height, left : left + width]
