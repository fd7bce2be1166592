"""The words of structured texts: numbers on four axes, `v0=12` to `v3=12`, written and read one after the other."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm.errors import DataError

CODES_PER_AXIS = 512
"""Codes of tokenizers within a text: below this on axis 0, the others on axis 1 (4M-21, Bachmann et al. 2024)."""

NUMBER = "[0-9]{1,6}"
_WORD = re.compile(rf"v([0-3])=({NUMBER})")


def to_bin(value: float, low: float, high: float, num_bins: int) -> int:
    """The bin of a number; those outside `low` to `high` are in the first or the last."""
    scale = (num_bins - 1) / (high - low)
    return round(scale * min(max(value, low), high) - scale * low)


def from_bin(number: int, low: float, high: float, num_bins: int) -> float:
    """The number that a bin stands for: `to_bin` backwards."""
    scale = (num_bins - 1) / (high - low)
    return (number + scale * low) / scale


def box_words(box: Sequence[int]) -> list[str]:
    """`v0=x1 v1=y1 v2=x2 v3=y2` of a box in bins."""
    return [f"v{axis}={value}" for axis, value in enumerate(box)]


def code_words(ids: Sequence[int]) -> list[str]:
    """The codes of a tokenizer: `v0=7` for 7, `v1=7` for 519."""
    return [f"v{one // CODES_PER_AXIS}={one % CODES_PER_AXIS}" for one in ids]


def finite(values: Any, count: int, what: str) -> list[float]:
    """`count` numbers, of arrays of any shape too.

    Raises:
        DataError: if there are more or fewer, or one is not finite.
    """
    try:
        found = [float(value) for value in np.asarray(values, np.float64).ravel()]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise DataError(f"{what} is {values!r}; expected {count} finite numbers")
    return found


def codes(values: Any, count: int, what: str) -> list[int]:
    """`count` codes of a tokenizer with 1,024 of them.

    Raises:
        DataError: if there are more or fewer, or one is outside the vocabulary.
    """
    found = finite(values, count, what)
    if not all(0 <= one < 2 * CODES_PER_AXIS and one == int(one) for one in found):
        raise DataError(f"{what} is {values!r}; expected whole numbers from 0 to {2 * CODES_PER_AXIS - 1}")
    return [int(one) for one in found]


class Words:
    """The words of a text, read from left to right."""

    def __init__(self, text: str) -> None:
        self._words = text.split()
        self._place = 0

    def next(self) -> str | None:
        """The next word; None at the end."""
        self._place += 1
        return self._words[self._place - 1] if self._place <= len(self._words) else None

    def numbers(self, *axes: int, below: int) -> list[int] | None:
        """The values of the next words, if they are numbers below a limit on exactly these axes.

        Otherwise None, and nothing counts as read.
        """
        found = self._read(len(axes), below)
        if found is None or any(axis != expected for (axis, _), expected in zip(found, axes)):
            return None
        self._place += len(axes)
        return [value for _, value in found]

    def box(self, below: int) -> list[int] | None:
        """Left, top, right and bottom, if these come next and are in order."""
        start = self._place
        sides = self.numbers(0, 1, 2, 3, below=below)
        if sides is not None and (sides[0] > sides[2] or sides[1] > sides[3]):
            self._place, sides = start, None
        return sides

    def codes(self, count: int) -> list[int] | None:
        """As many codes of a tokenizer, if they come next."""
        found = self._read(count, CODES_PER_AXIS)
        if found is None or any(axis > 1 for axis, _ in found):
            return None
        self._place += count
        return [axis * CODES_PER_AXIS + value for axis, value in found]

    def _read(self, count: int, below: int) -> list[tuple[int, int]] | None:
        matches = [_WORD.fullmatch(word) for word in self._words[self._place : self._place + count]]
        found = [(int(match[1]), int(match[2])) for match in matches if match is not None]
        return found if len(found) == count and all(value < below for _, value in found) else None
