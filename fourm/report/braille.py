"""Curves as text: every letter of Braille is two by four dots, which a terminal shows in any colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_BLANK = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Row and column of a dot -> its bit in the letter."""
_BARS = " ▁▂▃▄▅▆▇█"

Curve = tuple[Sequence[float], Sequence[float]]


def plot(curves: Sequence[Curve], width: int, height: int) -> tuple[list[list[tuple[str, int]]], tuple[float, ...]]:
    """Curves on one field, later ones on top.

    Args:
        curves: x and y of each; points that are not finite interrupt it.
        width: letters.
        height: lines.

    Returns:
        lines of letters with the number of the curve that each belongs to (-1: of none), and the field's borders: left,
        right, bottom, top.
    """
    points = [_finite(curve) for curve in curves]
    xs, ys = (np.concatenate([np.zeros(0), *(p[axis] for p in points)]) for axis in (0, 1))
    left, right, bottom, top = _span(xs) + _span(ys)
    bits, owner = np.zeros((height, width), int), np.full((height, width), -1)
    for number, (x, y) in enumerate(points):
        columns = np.round((x - left) / (right - left) * (2 * width - 1)).astype(int)
        rows = np.round((top - y) / (top - bottom) * (4 * height - 1)).astype(int)
        for column, row in _joined(columns, rows):
            bits[row // 4, column // 2] |= _BITS[row % 4][column % 2]
            owner[row // 4, column // 2] = number
    lines = [
        [(chr(_BLANK + int(b)) if b else " ", int(o)) for b, o in zip(*line, strict=True)]
        for line in zip(bits, owner, strict=True)
    ]
    return lines, (left, right, bottom, top)


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as bars of one line, averaged to so many letters; empty without finite ones."""
    finite = np.asarray([v for v in values if math.isfinite(v)], float)
    if not len(finite):
        return ""
    means = np.array([part.mean() for part in np.array_split(finite, min(width, len(finite)))])
    low, high = means.min(), means.max()
    places = np.full(len(means), 4.0) if high == low else 1 + (means - low) / (high - low) * (len(_BARS) - 2)
    return "".join(_BARS[round(place)] for place in places)


def _finite(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(values, float) for values in curve)
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _span(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value, apart from one another."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _joined(columns: np.ndarray, rows: np.ndarray) -> list[tuple[int, int]]:
    """Dots of a line through points."""
    dots = list(zip(columns[:1].tolist(), rows[:1].tolist(), strict=True))
    for i in range(1, len(columns)):
        steps = max(abs(columns[i] - columns[i - 1]), abs(rows[i] - rows[i - 1]), 1)
        for step in range(1, int(steps) + 1):
            share = step / steps
            column = round(columns[i - 1] + share * (columns[i] - columns[i - 1]))
            dots.append((column, round(rows[i - 1] + share * (rows[i] - rows[i - 1]))))
    return dots
