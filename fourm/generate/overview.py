"""All of a job in one labelled picture: what was given, and one row per answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fourm.generate.inputs import GivenValue
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.report.grid import below, grid
from fourm.report.legend import class_names, legend, num_void, scale_legend
from fourm.report.pictures import draw
from fourm.report.scale import Scale, scale_of

_SMALLEST_CELL, _LARGEST_CELL = 192, 320
_MOST_COLUMNS = 8
_UNSURE = Modality("uncertainty", Grid(1, 1), Continuous(1), "uncertainty", "gray", channels=1, direction="input")


@dataclass(frozen=True)
class _Column:
    """One modality of all samples.

    Args:
        label: above it.
        modality: what is drawn.
        values: one of each sample; a single one serves all.
    """

    label: str
    modality: Modality
    values: Sequence[Any]

    def value(self, number: int) -> Any:
        return self.values[number % len(self.values)]

    @property
    def is_photograph(self) -> bool:
        """Whether things found in a picture can be drawn on it."""
        return self.modality.decode == "image" and self.modality.teacher is None

    @property
    def is_label_map(self) -> bool:
        return self.modality.is_grid and self.modality.is_discrete and self.modality.tokenizer is None

    @property
    def is_measured(self) -> bool:
        return self.modality.decode == "depth16" and self.modality.tokenizer is None


def overview(
    values: Sequence[GivenValue],
    answers: Mapping[str, Any],
    shown: Mapping[str, Modality],
    uncertainty: Mapping[str, Tensor] | None = None,
) -> Image.Image:
    """Draw all given and generated values.

    Boxes, people and instances lie on the first photograph of their row, and boxes have the colours of the label map
    beside them. Features of a column share their colours. Legends below name the classes that occur,
    and the values of the colours of depth and other measurements. Many columns lie in several blocks below each other.

    Args:
        values: what was given.
        answers: name -> values.
        shown: name -> what its answers show.
        uncertainty: name -> (B, H, W), drawn beside its answers, bright where they are unsure.
    """
    columns = _columns(values, answers, shown, uncertainty)
    num_samples = len(next(iter(answers.values())))
    rows = _rows(columns, num_samples)
    largest = max(max(cell.size) for row in rows for cell in row)
    sheets = [
        grid(
            [row[start:stop] for row in rows],
            columns=[column.label for column in columns[start:stop]],
            rows=[f"{n}" for n in range(num_samples)] if num_samples > 1 else (),
            cell_size=min(max(largest, _SMALLEST_CELL), _LARGEST_CELL),
        )
        for start, stop in _blocks(len(columns))
    ]
    sheet = reduce(below, sheets)
    for names_of, present in _legends(columns, num_samples).items():
        sheet = below(sheet, legend(names_of, present=sorted(present), width=sheet.width))
    for scale, labels in _scales(columns).items():
        sheet = below(sheet, scale_legend(", ".join(labels), scale))
    return sheet


def pictures(
    values: Sequence[GivenValue],
    answers: Mapping[str, Any],
    shown: Mapping[str, Modality],
    uncertainty: Mapping[str, Tensor] | None = None,
) -> dict[str, list[Image.Image]]:
    """Each name in `answers`, and `NAME: unsure`, -> the picture of every answer, drawn as in `overview`."""
    columns = _columns(values, answers, shown, uncertainty)
    rows = _rows(columns, len(next(iter(answers.values()))))
    return {columns[place].label: [row[place] for row in rows] for place in range(len(values), len(columns))}


def _columns(
    values: Sequence[GivenValue],
    answers: Mapping[str, Any],
    shown: Mapping[str, Modality],
    uncertainty: Mapping[str, Tensor] | None = None,
) -> list[_Column]:
    columns = [_Column(f"{value.name} (given)", value.shown, value.pictures) for value in values]
    for name, found in answers.items():
        columns.append(_Column(name, shown[name], found))
        if uncertainty and name in uncertainty:
            unsure = uncertainty[name]
            columns.append(_Column(f"{name}: unsure", _UNSURE, list(unsure / unsure.max().clamp(min=1e-12))))
    return columns


def _rows(columns: Sequence[_Column], num_samples: int) -> list[list[Image.Image]]:
    classes = next((c.modality.classes for c in columns if c.is_label_map and c.modality.classes), ())
    return [_row(columns, number, classes) for number in range(num_samples)]


def _blocks(num_columns: int) -> Iterator[tuple[int, int]]:
    """First column and the one behind the last of blocks that lie below each other, about equally wide."""
    num_blocks = -(-num_columns // _MOST_COLUMNS)
    edges = [round(block * num_columns / num_blocks) for block in range(num_blocks + 1)]
    return pairwise(edges)


def _row(columns: Sequence[_Column], number: int, classes: tuple[str, ...]) -> list[Image.Image]:
    photographs = (c for c in columns if c.is_photograph and c.value(number) is not None)
    photograph = next((draw(c.modality, c.value(number)) for c in photographs), None)
    return [draw(c.modality, c.value(number), background=photograph, classes=classes, like=c.values) for c in columns]


def _legends(columns: Sequence[_Column], num_samples: int) -> dict[tuple[str, ...], set[int]]:
    """Class names -> the ids that occur."""
    found: dict[tuple[str, ...], set[int]] = {}
    for column in columns:
        shown = [column.value(n) for n in range(num_samples)] if column.is_label_map else []
        void = num_void(column.modality)
        ids = {int(i) - void for value in shown if value is not None for i in np.unique(np.asarray(value))}
        if ids:
            found.setdefault(class_names(column.modality), set()).update(ids)
    return found


def _scales(columns: Sequence[_Column]) -> dict[Scale, list[str]]:
    """Scales of measured values -> the columns that have them."""
    found: dict[Scale, list[str]] = {}
    for column in columns:
        if column.is_measured and any(value is not None for value in column.values):
            found.setdefault(scale_of(column.modality), []).append(column.label)
    return found
