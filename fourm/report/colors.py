"""Colours that mean the same thing in every picture: class palettes, token colours and the depth scale."""

from __future__ import annotations

import colorsys
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Color = tuple[int, int, int]

VOID = 255
"""Label of pixels without a class."""

VOID_COLOR: Color = (0, 0, 0)

# Chosen by eye: neighbours differ in hue and in lightness, and the first, which label surfaces more often than things,
# are quiet. More classes follow by formula.
_FIRST_COLORS: tuple[Color, ...] = (
    (184, 146, 104), (198, 204, 214), (243, 236, 208), (104, 184, 236),
    (134, 82, 52), (240, 138, 196), (196, 58, 72), (66, 92, 204),
    (38, 146, 108), (242, 156, 46), (250, 222, 74), (122, 66, 154),
    (20, 172, 184), (122, 138, 54), (255, 110, 88), (74, 196, 84),
)  # fmt: skip
_GOLDEN_RATIO = 0.6180339887498949
# Neighbouring ids differ in lightness as well as in hue, for readers who see few hues and for printing in grey.
_TONES = ((0.62, 0.93), (0.75, 0.62), (0.38, 0.98))


@lru_cache(maxsize=32)
def _palette(num_classes: int) -> Array:
    colors = np.empty((num_classes, 3), dtype=np.uint8)
    colors[: len(_FIRST_COLORS)] = _FIRST_COLORS[:num_classes]
    for index in range(len(_FIRST_COLORS), num_classes):
        saturation, brightness = _TONES[index % len(_TONES)]
        rgb = colorsys.hsv_to_rgb((0.08 + index * _GOLDEN_RATIO) % 1.0, saturation, brightness)
        colors[index] = [round(255 * channel) for channel in rgb]
    colors.setflags(write=False)
    return colors


def palette(num_classes: int) -> Array:
    """One colour per class id; a class keeps its colour when the number of classes grows.

    Args:
        num_classes: how many colours.

    Returns:
        (num_classes, 3) uint8 RGB, read-only.
    """
    return _palette(num_classes)


def class_color(name: str, classes: tuple[str, ...] = ()) -> Color:
    """The palette colour of a class name; names outside `classes` have colours that never change."""
    index = classes.index(name) if name in classes else len(_FIRST_COLORS) + zlib.crc32(name.encode()) % 512
    red, green, blue = palette(max(len(classes), len(_FIRST_COLORS) + 512))[index]
    return int(red), int(green), int(blue)


def instance_color(number: int) -> Color:
    """The colour of an instance without a class: strong, and unlike those of the instances before it."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN_RATIO) % 1.0, 0.85, (0.95, 0.75)[number % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def color_scale(name: str = "inferno", steps: int = 256) -> Array:
    """A perceptually uniform colour map as a table (matplotlib's).

    Args:
        name: name of the colour map; `_r` at its end reverses it.
        steps: number of rows.

    Returns:
        (steps, 3) uint8 RGB.
    """
    import matplotlib

    table = matplotlib.colormaps[name](np.linspace(0.0, 1.0, steps))[:, :3]
    return np.asarray(np.rint(table * 255), dtype=np.uint8)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better on `background` (relative luminance, WCAG 2)."""
    linear = [(c / 255) ** 2.2 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (17, 17, 17) if luminance > 0.18 else (255, 255, 255)
