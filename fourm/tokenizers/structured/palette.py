"""The main colours of an image as text: `v1=<n> v0=R v0=G v0=B ...` (4M-21, Bachmann et al. 2024), and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fourm.errors import DataError
from fourm.tokenizers.structured.words import NUMBER, finite

Color = tuple[int, int, int]
NUM_LEVELS = 256
_PALETTE = re.compile(rf"(?<!\S)v1=({NUMBER})((?:\s+v0={NUMBER})+)(?!\S)")


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
    for match in _PALETTE.finditer(text):
        levels = [int(word[3:]) for word in match[2].split()]
        colors: list[Color] = []
        for red, green, blue in zip(levels[::3], levels[1::3], levels[2::3]):
            if len(colors) == int(match[1]) or max(red, green, blue) >= NUM_LEVELS:
                break
            colors.append((red, green, blue))
        if colors:
            return colors
    return []


def _list(colors: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if isinstance(colors, str) or not hasattr(colors, "__len__"):
        raise DataError(f"a palette is {type(colors).__name__}; expected a list of colours (r, g, b)")
    return colors
