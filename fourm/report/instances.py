"""Instances of Segment Anything (Kirillov et al. 2023): query points, and the masks found at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fourm.report.arrays import to_planes
from fourm.report.canvas import canvas, dot, nothing, outline, rectangle, stroke
from fourm.report.colors import Array, Color, instance_color

_OPACITY = 0.45


def instances(points: Sequence[Mapping[str, Any]], background: Image.Image | None = None) -> Image.Image:
    """Masks in their boxes, each in a colour and with an outline of its own, and the query points as dots.

    Args:
        points: mappings with `point` (x, y as shares of width and height) and `instances`, mappings with `box` (xmin,
            ymin, xmax, ymax as shares) and, where it is known, `mask`: (h, w) probabilities over the box. Without a
            mask the box itself is drawn. A point has the colour of its first instance; it is white without any.
        background: picture below.
    """
    if not points:
        return nothing(background)
    sheet = canvas(background)
    colors: list[Color] = []
    number = 0
    for point in points:
        found = point.get("instances", ())
        colors.append(instance_color(number) if found else (255, 255, 255))
        for instance in found:
            if instance.get("mask") is None:
                outline(sheet, instance["box"], instance_color(number))
            else:
                _paste(sheet, instance["box"], instance["mask"], instance_color(number))
            number += 1
    for point, color in zip(points, colors, strict=True):
        dot(sheet, point["point"], color)
    return sheet


def _paste(sheet: Image.Image, box: Any, mask: Any, color: Color) -> None:
    """Colour the part of a box where a mask is above one half, and draw its outline."""
    left, top, right, bottom = rectangle(sheet, box)
    inside = stretched(mask, bottom - top + 1, right - left + 1)
    shown = np.array(sheet.crop((left, top, right + 1, bottom + 1)), dtype=np.float64)
    shown[inside] += _OPACITY * (np.array(color) - shown[inside])
    shown[border(inside, stroke(sheet))] = color
    sheet.paste(Image.fromarray(np.rint(shown).astype(np.uint8)), (left, top))


def stretched(mask: Any, height: int, width: int) -> Array:
    """(height, width) bool: where a mask, resized to a box of so many pixels, is above one half."""
    shares = np.nan_to_num(to_planes(mask)[0].astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.asarray(Image.fromarray(shares).resize((width, height), Image.Resampling.BILINEAR)) > 0.5


def border(inside: Array, width: int) -> Array:
    """The pixels of a mask that are nearer than `width` pixels to one outside; the picture's edge is outside."""
    core = np.pad(inside, width)
    for _ in range(width):
        inner = core.copy()
        inner[1:] &= core[:-1]
        inner[:-1] &= core[1:]
        inner[:, 1:] &= core[:, :-1]
        inner[:, :-1] &= core[:, 1:]
        core = inner
    return np.asarray(inside & ~core[width:-width, width:-width])
