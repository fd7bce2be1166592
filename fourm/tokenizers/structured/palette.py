"""The main colours of an image as text: `v1=<n> v0=R v0=G v0=B ...` (4M-21, Bachmann et al. 2024), and back."""

from __future__ import annotations

from collections.abc import Sequence

from fourm.errors import DataError
from fourm.tokenizers.structured.words import Words, finite

Color = tuple[int, int, int]
NUM_LEVELS = 256


def palette_to_text(colors: Sequence[Sequence[int]]) -> str:
    """Colours as text, in their order; none give an empty text.

    Args:
        colors: (r, g, b), each from 0 to 255.

    Raises:
        DataError: if one is not a colour.
    """
    rows = [[round(level) for level in finite(color, 3, "a colour")] for color in _list(colors)]
    for row in rows:
        if not all(0 <= level < NUM_LEVELS for level in row):
            raise DataError(f"a colour is {row}; expected levels from 0 to {NUM_LEVELS - 1}")
    return " ".join([f"v1={len(rows)}", *(f"v0={level}" for row in rows for level in row)]) if rows else ""


def text_to_palette(text: str) -> list[Color]:
    """The first palette in a text: as many colours as it says, or fewer if it breaks off; none if there is none.

    Args:
        text: what `palette_to_text` writes, or anything else.
    """
    words = Words(text)
    while words.peek() is not None:
        number = words.numbers(1, below=NUM_LEVELS)
        if number is None:
            words.next()
            continue
        colors: list[Color] = []
        while len(colors) < number[0] and (levels := words.numbers(0, 0, 0, below=NUM_LEVELS)) is not None:
            colors.append((levels[0], levels[1], levels[2]))
        if colors:
            return colors
    return []


def _list(colors: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if isinstance(colors, str) or not hasattr(colors, "__len__"):
        raise DataError(f"a palette is {type(colors).__name__}; expected a list of colours (r, g, b)")
    return colors
