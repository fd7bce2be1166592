"""Stored crops, on the picture they are cut from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from fourm.report.canvas import canvas, nothing, outline, rectangle, tag
from fourm.report.colors import instance_color


def crops(rows: Sequence[Mapping[str, Any]], background: Image.Image | None = None) -> Image.Image:
    """Numbered rectangles, the first of them crop 0; those that are mirrored have `m` behind their number.

    Args:
        rows: mappings with `box` (x1, y1, x2, y2 as shares of width and height) and `hflip`, whether it is mirrored.
        background: picture below.
    """
    if not rows:
        return nothing(background)
    sheet = canvas(background)
    for number, row in enumerate(rows):
        outline(sheet, row["box"], instance_color(number))
    ends: dict[tuple[int, int], int] = {}  # names of crops that begin at the same pixel stand side by side
    for number, row in enumerate(rows):
        left, top, _, _ = rectangle(sheet, row["box"])
        name = f"{number}{'m' if row['hflip'] else ''}"
        ends[left, top] = tag(sheet, name, ends.get((left, top), left), top, instance_color(number))
    return sheet
