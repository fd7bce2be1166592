"""What the colours of label maps and measured values mean."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from fourm.modality import Modality
from fourm.report.colors import color_scale, palette
from fourm.report.scale import Scale
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


def scale_legend(name: str, scale: Scale, *, length: int = 256, size: int = 14) -> Image.Image:
    """The colours of measured values, with the values where they are.

    Args:
        name: written before them.
        scale: what the colours mean.
        length: of the ramp in pixels.
        size: font size in pixels.
    """
    ticks = [(round(share * (length - 1)), text, text_width(text, size)) for share, text in scale.ticks()]
    left = text_width(name, size) + 8 + max(size, ticks[0][2] // 2)
    bottom = size + 8
    sheet = Image.new("RGB", (left + length + ticks[-1][2] // 2 + 4, bottom + line_height(size) + 6), PAPER)
    sheet.paste(Image.fromarray(color_scale(scale.colors, length)[None]).resize((length, size)), (left, 4))
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 2), printable(name), fill=INK, font=font(size))
    for place, text, width in ticks:
        pen.line((left + place, bottom - 3, left + place, bottom), fill=INK)
        pen.text((left + place - width // 2, bottom + 1), printable(text), fill=INK, font=font(size))
    return sheet
