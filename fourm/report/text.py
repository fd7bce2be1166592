"""Text in pictures: fonts, wrapping and text cards."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from fourm.report.colors import Color

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER: Color = (250, 250, 248)
INK: Color = (28, 30, 34)
MUTED: Color = (104, 110, 118)

# The built-in font has no glyph for these; captions and labels use them often.
_SUBSTITUTES = str.maketrans({"→": ">", "×": "x", "–": "-", "—": "-", "…": "...", "≥": ">=", "≤": "<=", "Δ": "D"})


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """The font that comes with Pillow, so that reports look the same on every machine.

    Args:
        size: height in pixels.
    """
    return ImageFont.load_default(size=size)


def printable(text: str) -> str:
    """`text` with the signs the built-in font lacks spelled in signs it has."""
    return text.translate(_SUBSTITUTES)


def text_width(text: str, size: int) -> int:
    """Width of one line in pixels, rounded up."""
    return int(-(-font(size).getlength(printable(text)) // 1))


def line_height(size: int) -> int:
    """Distance between baselines in pixels."""
    return round(size * 1.3)


def wrap(text: str, width: int, size: int) -> list[str]:
    """Break `text` into lines no wider than `width` pixels; a word that is wider by itself is cut.

    Args:
        text: any text; line breaks in it are kept.
        width: available pixels.
        size: font size in pixels.

    Returns:
        At least one line.
    """
    lines: list[str] = []
    for paragraph in printable(text).splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            for piece in _cut(word, width, size):
                longer = f"{line} {piece}" if line else piece
                if line and text_width(longer, size) > width:
                    lines.append(line)
                    line = piece
                else:
                    line = longer
        lines.append(line)
    return lines


def _cut(word: str, width: int, size: int) -> list[str]:
    """`word` in pieces that each fit `width`; a piece has at least one letter."""
    pieces: list[str] = []
    while text_width(word, size) > width and len(word) > 1:
        end = len(word) - 1
        while end > 1 and text_width(word[:end], size) > width:
            end -= 1
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]


def text_card(
    text: str, width: int = 192, height: int | None = None, *, size: int = 14, color: Color = INK, paper: Color = PAPER
) -> Image.Image:
    """A card with wrapped text, which shrinks down to 9 pixels to fit, and ends in `...` if it still does not.

    Args:
        text: the text.
        width: width of the card in pixels.
        height: height of the card; by default as high as the text, and at least half the width.
        size: largest font size in pixels.
        color: colour of the letters.
        paper: colour of the card.

    Returns:
        An RGB image of (width, height) pixels.
    """
    margin = max(4, width // 24)
    inner = max(1, width - 2 * margin)
    lines = wrap(text, inner, size)
    if height is not None:
        while size > 9 and len(lines) * line_height(size) > height - 2 * margin:
            size -= 1
            lines = wrap(text, inner, size)
        room = max(1, (height - 2 * margin) // line_height(size))
        if len(lines) > room:
            lines = [*lines[: room - 1], lines[room - 1].rstrip(" .,") + "..."]
    else:
        height = max(width // 2, len(lines) * line_height(size) + 2 * margin)
    card = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(card)
    for number, line in enumerate(lines):
        pen.text((margin, margin + number * line_height(size)), line, fill=color, font=font(size))
    return card
