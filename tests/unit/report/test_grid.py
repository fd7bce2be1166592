"""Labelled grids of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm.report.grid import below, fit, grid
from fourm.report.text import PAPER

RED = Image.new("RGB", (8, 8), (255, 0, 0))


def test_cells_are_placed_in_rows_and_columns_and_enlarged() -> None:
    sheet = np.asarray(grid([[RED, None], [None, RED]], cell_size=64))
    red = (sheet == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 2 * 64 * 64
    rows, columns = np.nonzero(red)
    assert {(rows.min(), columns.min())} == {(6, 6)}
    assert (rows.max(), columns.max()) == (6 + 2 * 64 + 6 - 1, 6 + 2 * 64 + 6 - 1)


def test_the_size_follows_from_cells_and_labels() -> None:
    assert grid([[RED, RED, RED]], cell_size=64).size == (6 + 3 * 70, 6 + 70)
    labelled = grid([[RED, RED, RED]], columns=["a", "b", "c"], rows=["first"], title="Samples", cell_size=64)
    assert labelled.width > 6 + 3 * 70
    assert labelled.height > 6 + 70


@pytest.mark.parametrize("labels", [{"columns": ["depth"]}, {"rows": ["truth"]}, {"title": "Samples"}])
def test_labels_are_written_outside_the_cells(labels: dict[str, list[str]]) -> None:
    sheet = np.asarray(grid([[RED]], cell_size=64, **labels))  # type: ignore[arg-type]
    ink = (sheet != PAPER).any(axis=-1) & ~(sheet == (255, 0, 0)).all(axis=-1)
    assert ink.sum() > 30


def test_a_title_wider_than_the_grid_takes_several_lines() -> None:
    short, long = (grid([[RED]], title=title, cell_size=64) for title in ("One", "Originals beside reconstructions"))
    assert long.width == short.width
    assert long.height > short.height + 2 * 14


def test_texts_become_cards_of_the_size_of_a_cell() -> None:
    sheet = np.asarray(grid([["a room with a bed"]], cell_size=64))
    assert (sheet[6:70, 6:70] != PAPER).any(axis=-1).mean() > 0.9


def test_rows_may_differ_in_length() -> None:
    assert grid([[RED], [RED, RED]], cell_size=32).size == (6 + 2 * 38, 6 + 2 * 38)


def test_a_grid_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        grid([])


def test_fitting_enlarges_by_whole_pixels_and_shrinks_to_the_cell() -> None:
    assert fit(Image.new("L", (28, 28)), 64).size == (56, 56)
    assert fit(Image.new("RGB", (200, 100)), 64).size == (64, 32)


def test_a_footer_lies_below_on_paper_as_wide_as_the_wider() -> None:
    both = np.asarray(below(RED, Image.new("RGB", (20, 5), (0, 0, 255))))
    assert both.shape[1] == 20
    assert tuple(both[0, 0]) == (255, 0, 0)
    assert tuple(both[0, 19]) == PAPER
    assert tuple(both[8, 19]) == (0, 0, 255)
