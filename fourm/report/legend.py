"""What the colours of a label map mean."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from fourm.modality import Modality
from fourm.report.colors import palette
from fourm.report.text import INK, PAPER, font, line_height, printable, text_width


def class_names(modality: Modality) -> tuple[str, ...]:
    """A name for each class of a label map in palette order, `class 7` where it has none; void is no class."""
    void = num_void(modality)
    names = modality.classes[max(0, len(modality.classes) + void - modality.vocab_size) :]
    return tuple(names[i] if i < len(names) else f"class {i}" for i in range(modality.vocab_size - void))


def num_void(modality: Modality) -> int:
    """How many ids of a label map come before those of its classes: void has one in 4M's published form."""
    return int(modality.decode == "labels_void_first")


def legend(
    names: Sequence[str], *, present: Sequence[int] | None = None, width: int = 640, size: int = 14
) -> Image.Image:
    """Class names beside their colours.

    Args:
        names: class names; class i has colour `palette(len(names))[i]`.
        present: ids to list; by default all.
        width: width of the legend in pixels.
        size: font size in pixels.
    """
    table = palette(len(names))
    entries = [(names[i], table[i]) for i in (range(len(names)) if present is None else present) if 0 <= i < len(names)]
    column = max((text_width(name, size) for name, _ in entries), default=0) + 3 * size
    columns = max(1, width // column)
    height = line_height(size) + 4
    sheet = Image.new("RGB", (width, height * max(1, -(-len(entries) // columns))), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, color) in enumerate(entries):
        x, y = (number % columns) * column, (number // columns) * height
        pen.rectangle((x + 4, y + 4, x + 4 + size, y + 4 + size), fill=tuple(int(c) for c in color))
        pen.text((x + 10 + size, y + 2), printable(name), fill=INK, font=font(size))
    return sheet
