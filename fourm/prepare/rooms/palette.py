"""Named colours: what a caption calls red is red in the picture, in many shades."""

from __future__ import annotations

import numpy as np

Rgb = tuple[float, float, float]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (176, 42, 38), "orange": (222, 122, 40), "yellow": (226, 190, 62), "green": (78, 136, 66),
    "teal": (38, 132, 132), "blue": (48, 88, 170), "purple": (116, 70, 150), "pink": (224, 138, 162),
    "white": (234, 232, 228), "gray": (134, 135, 138), "black": (42, 42, 45), "brown": (112, 72, 44),
    "beige": (208, 184, 146),
}  # fmt: skip
"""sRGB, 0..255."""

FABRICS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "gray", "black", "beige")
WOODS = ("brown", "brown", "brown", "beige", "white", "white", "gray", "black")
METAL: Rgb = (0.35, 0.35, 0.37)
DARK: Rgb = (0.012, 0.012, 0.014)


def linear(srgb: tuple[float, float, float]) -> Rgb:
    """Linear reflectance in 0..1 of an sRGB colour in 0..255."""
    r, g, b = ((value / 255) ** 2.2 for value in srgb)
    return (r, g, b)


def shade(colour: Rgb, factor: float) -> Rgb:
    """A lighter (factor > 1) or darker version of a linear colour."""
    r, g, b = (min(value * factor, 0.95) for value in colour)
    return (r, g, b)


def tint(rng: np.random.Generator, name: str) -> Rgb:
    """One of the many shades of a named colour, linear."""
    brightness = rng.uniform(0.86, 1.12)
    r, g, b = (min(max(value * brightness + rng.uniform(-9, 9), 4), 250) for value in COLOURS[name])
    return linear((r, g, b))


def choose(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, Rgb]:
    """A name and a shade of it."""
    name = names[rng.integers(len(names))]
    return name, tint(rng, name)
