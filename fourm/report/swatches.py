"""A palette of colours as bands with their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fourm.report.canvas import CARD_SIZE, nothing, numbers
from fourm.report.colors import text_color
from fourm.report.text import font, line_height

_LETTER = 13


def swatches(colors: Sequence[Any], size: int = CARD_SIZE) -> Image.Image:
    """One band for each colour, from top to bottom, with its hexadecimal name where there is room.

    Args:
        colors: (red, green, blue) of each, 0 to 255; numbers outside are clipped.
        size: width and, unless there are more colours than rows, height of the picture.
    """
    if not len(colors):
        return nothing()
    sheet = Image.new("RGB", (size, max(size, len(colors))))
    pen = ImageDraw.Draw(sheet)
    edges = np.linspace(0, sheet.height, len(colors) + 1).round().astype(int).tolist()
    for color, top, bottom in zip(colors, edges, edges[1:], strict=False):
        red, green, blue = (round(min(max(channel, 0), 255)) for channel in numbers(color, 3))
        pen.rectangle((0, top, size, bottom - 1), fill=(red, green, blue))
        if bottom - top > line_height(_LETTER):
            middle = (top + bottom - line_height(_LETTER)) // 2
            name = f"#{red:02x}{green:02x}{blue:02x}"
            pen.text((8, middle), name, fill=text_color((red, green, blue)), font=font(_LETTER))
    return sheet
