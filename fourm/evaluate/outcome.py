"""What an evaluation hands to its report."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

Cell = Image.Image | str | None
Metrics = dict[str, dict[str, float]]


@dataclass
class PictureTable:
    """Answers of the model beside the truth.

    Args:
        name: file name of the picture, such as `rgb_to_all`.
        title: heading.
        note: what one sees, for a reader who has never seen it.
        columns: name of each column.
        cells: rows of pictures and texts.
    """

    name: str
    title: str
    note: str
    columns: list[str]
    cells: list[list[Cell]]


@dataclass
class Outcome:
    """Numbers and pictures.

    Args:
        metrics: task -> metric -> value, as in `metrics.json`.
        tables: pictures.
        facts: what was measured on, in words.
        classes: names of the colours of label maps.
        missing: metric -> why it could not be measured.
    """

    metrics: Metrics
    tables: list[PictureTable] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
