"""What all drawings on top of a picture share: the sheet, places on it, names and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fourm.report.arrays import to_array
from fourm.report.colors import Color, text_color
from fourm.report.text import MUTED, font, line_height, printable, text_card, text_width

CARD_SIZE = 192
SIZE = 224
"""Shortest side of a drawing, so that what is written on it is legible."""
_SHEET: Color = (238, 238, 234)


def canvas(background: Image.Image | None, size: int = SIZE) -> Image.Image:
    """A copy of a picture, enlarged to be drawn on; a light sheet where there is none."""
    if background is None:
        return Image.new("RGB", (size, size), _SHEET)
    return enlarge(background.convert("RGB"), size).copy()


def enlarge(picture: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side is at least `size`, by a whole factor, each pixel becoming a square.

    A picture that is already larger is returned as it is.
    """
    factor = -(-size // min(picture.size))
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def nothing(background: Image.Image | None = None) -> Image.Image:
    """A picture of an empty answer: `none`, on what it would have been drawn on."""
    if background is None:
        return text_card("none", CARD_SIZE, color=MUTED)
    sheet = canvas(background)
    tag(sheet, "none", 0, 0, MUTED)
    return sheet


def numbers(values: Any, count: int) -> list[float]:
    """The first `count` of some numbers; those that are missing or not finite are 0."""
    flat = np.nan_to_num(to_array(values).astype(np.float64).ravel()[:count], nan=0.0, posinf=0.0, neginf=0.0)
    return [*flat.tolist(), *[0.0] * (count - len(flat))]


def place(picture: Image.Image, point: Any) -> tuple[int, int]:
    """The pixel of a point (x, y) given as shares of width and height; points outside move to the border."""
    x, y = (min(max(share, 0.0), 1.0) for share in numbers(point, 2))
    return round(x * (picture.width - 1)), round(y * (picture.height - 1))


def rectangle(picture: Image.Image, corners: Any) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a box (x1, y1, x2, y2) given as shares, its corners in any order."""
    shares = numbers(corners, 4)
    (x1, y1), (x2, y2) = place(picture, shares[:2]), place(picture, shares[2:])
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def stroke(picture: Image.Image) -> int:
    """Width of a line in pixels, an odd number, so that a line has a middle."""
    return 2 * max(1, min(picture.size) // 150) + 1


def outline(picture: Image.Image, corners: Any, color: Color) -> None:
    """Draw the outline of a box."""
    ImageDraw.Draw(picture).rectangle(rectangle(picture, corners), outline=color, width=stroke(picture))


def tag(picture: Image.Image, text: str, x: int, y: int, color: Color) -> int:
    """Write a name on a plate of some colour, its top left corner at a pixel, but inside; returns where it ends."""
    size = max(11, min(picture.size) // 15)
    width, height = text_width(text, size) + 6, line_height(size)
    left, top = min(x, max(0, picture.width - width)), min(y, max(0, picture.height - height))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, top, left + width, top + height), fill=color)
    pen.text((left + 3, top + 1), printable(text), fill=text_color(color), font=font(size))
    return left + width + 1


def dot(picture: Image.Image, point: Sequence[float], color: Color) -> None:
    """Mark a point, given as shares, by a dot whose rim is light or dark, whichever its colour is not."""
    x, y = place(picture, point)
    pen, radius, rim = ImageDraw.Draw(picture), stroke(picture), text_color(color)
    pen.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), fill=rim)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
