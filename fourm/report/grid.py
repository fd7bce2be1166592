"""Many pictures in one: a labelled grid for TensorBoard, image files and the command line."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from fourm.report.text import INK, MUTED, PAPER, font, line_height, text_card, text_width, wrap

Cell = Image.Image | str | None

_GAP = 6
_LABEL = 14


def grid(
    cells: Sequence[Sequence[Cell]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    title: str = "",
    cell_size: int = 192,
) -> Image.Image:
    """Lay pictures and texts out in rows and columns with their labels.

    Args:
        cells: one sequence per row; an image is enlarged by whole pixels to fit its cell, a string becomes a text card,
            None stays empty. Rows may be shorter than others.
        columns: label above each column.
        rows: label left of each row.
        title: above everything, in as many lines as it needs.
        cell_size: side of a cell in pixels.

    Returns:
        An RGB image of (margin + columns * (cell_size + gap), margin + rows * (cell_size + gap)) pixels.

    Raises:
        ValueError: if there are no cells.
    """
    num_columns = max((len(row) for row in cells), default=0)
    if num_columns == 0:
        raise ValueError("a grid needs at least one cell")
    left = _left_margin(rows, cell_size)
    heads = [wrap(label, cell_size, _LABEL) for label in columns[:num_columns]]
    head_height = max((len(lines) for lines in heads), default=0) * line_height(_LABEL)
    step = cell_size + _GAP
    width = left + num_columns * step
    title_lines = wrap(title, width - left - _GAP, _LABEL + 4) if title else []
    head_top = len(title_lines) * line_height(_LABEL + 4) + _GAP
    top = head_top + (head_height + _GAP if heads else 0)

    sheet = Image.new("RGB", (width, top + len(cells) * step), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title_lines):
        y = _GAP // 2 + number * line_height(_LABEL + 4)
        pen.text((left, y), line, fill=INK, font=font(_LABEL + 4))
    for number, lines in enumerate(heads):
        # Labels of one line stand on the pictures, not at the top of the longest label.
        first = head_top + head_height - len(lines) * line_height(_LABEL)
        _write(pen, lines, left + number * step, first, cell_size, center=True)
    for number, row in enumerate(cells):
        y = top + number * step
        if number < len(rows):
            lines = wrap(rows[number], left - 2 * _GAP, _LABEL)
            _write(pen, lines, _GAP, y + (cell_size - len(lines) * line_height(_LABEL)) // 2, left - 2 * _GAP)
        for place, cell in enumerate(row):
            _place(sheet, cell, left + place * step, y, cell_size)
    return sheet


def below(sheet: Image.Image, footer: Image.Image) -> Image.Image:
    """One picture with another below it, on paper as wide as the wider."""
    both = Image.new("RGB", (max(sheet.width, footer.width), sheet.height + footer.height + _GAP), PAPER)
    both.paste(sheet, (0, 0))
    both.paste(footer, (0, sheet.height))
    return both


def _left_margin(rows: Sequence[str], cell_size: int) -> int:
    """Room for the row labels: as wide as the widest, at most a cell."""
    widest = max((text_width(label, _LABEL) for label in rows), default=0)
    return min(widest, cell_size) + 2 * _GAP if widest else _GAP


def _write(pen: ImageDraw.ImageDraw, lines: list[str], x: int, y: int, width: int, *, center: bool = False) -> None:
    for number, line in enumerate(lines):
        shift = (width - text_width(line, _LABEL)) // 2 if center else 0
        pen.text((x + shift, y + number * line_height(_LABEL)), line, fill=MUTED, font=font(_LABEL))


def _place(sheet: Image.Image, cell: Cell, x: int, y: int, size: int) -> None:
    """Put a cell's content in the middle of its square."""
    if cell is None:
        return
    picture = text_card(cell, size, size, paper=(255, 255, 255)) if isinstance(cell, str) else fit(cell, size)
    sheet.paste(picture, (x + (size - picture.width) // 2, y + (size - picture.height) // 2))


def fit(picture: Image.Image, size: int) -> Image.Image:
    """Scale so that the longer side is `size` or the largest whole multiple of its pixels below it; shrink smoothly."""
    longest = max(picture.size)
    if longest > size:
        scaled = (max(1, round(picture.width * size / longest)), max(1, round(picture.height * size / longest)))
        return picture.convert("RGB").resize(scaled, Image.Resampling.LANCZOS)
    factor = size // longest
    return picture.convert("RGB").resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
