"""Named numbers, such as 4M-21's metadata, as a small table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw

from fourm.report.canvas import CARD_SIZE, nothing
from fourm.report.text import INK, MUTED, PAPER, font, line_height, printable, text_width, wrap

_LETTER = 11
_MARGIN = 8
_WIDEST_NAME = 200
_SHADE = (240, 240, 236)


def facts(values: Mapping[str, Any]) -> Image.Image:
    """A line for each number: its name on the left, its value on the right.

    Args:
        values: name -> number; underscores in names are drawn as spaces.
    """
    if not values:
        return nothing()
    lines = [(wrap(name.replace("_", " "), _WIDEST_NAME, _LETTER)[0], _written(v)) for name, v in values.items()]
    names, numbers = (max(text_width(column, _LETTER) for column in part) for part in zip(*lines, strict=True))
    height = line_height(_LETTER)
    width = max(CARD_SIZE, names + numbers + 4 * _MARGIN)
    sheet = Image.new("RGB", (width, len(lines) * height + 2 * _MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, value) in enumerate(lines):
        y = _MARGIN + number * height
        if number % 2 == 0:
            pen.rectangle((0, y, width, y + height - 1), fill=_SHADE)
        pen.text((_MARGIN, y), printable(name), fill=MUTED, font=font(_LETTER))
        left = width - _MARGIN - text_width(value, _LETTER)
        pen.text((left, y), value, fill=INK, font=font(_LETTER))
    return sheet


def _written(value: Any) -> str:
    """A number in at most four digits behind its sign and before its exponent; whole numbers in full."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value))[:24]
    whole = isinstance(value, int) or (value == value // 1 and abs(value) < 1e6)
    return str(int(value)) if whole else f"{value:.4g}"
