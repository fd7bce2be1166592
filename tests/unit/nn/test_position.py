"""Position tables against closed forms and the values of the published checkpoints."""

from __future__ import annotations

import math

import torch

from fourm.layouts import Grid, Sequence
from fourm.nn.position import sincos, sincos_1d, sincos_2d


def test_published_values_of_a_small_grid() -> None:
    table = sincos_2d(2, 2, 8)
    far = [0.8415, 0.01, 0.5403, 1.0]
    torch.testing.assert_close(table[1], torch.tensor([0.0, 0.0, 1.0, 1.0, *far]), atol=1e-4, rtol=0)
    torch.testing.assert_close(table[2], torch.tensor([*far, 0.0, 0.0, 1.0, 1.0]), atol=1e-4, rtol=0)


def test_published_values_of_a_sequence() -> None:
    torch.testing.assert_close(sincos_1d(2, 4)[1], torch.tensor([0.8415, 0.01, 0.5403, 1.0]), atol=1e-4, rtol=0)


def test_a_sequence_follows_its_formula() -> None:
    table, dim = sincos_1d(50, 12), 12
    for n in (0, 7, 49):
        for i in range(dim // 2):
            angle = n * 10_000 ** (-2 * i / dim)
            assert math.isclose(table[n, i], math.sin(angle), abs_tol=1e-6)
            assert math.isclose(table[n, dim // 2 + i], math.cos(angle), abs_tol=1e-6)


def test_grids_are_numbered_row_by_row_and_may_be_oblong() -> None:
    table, rows, columns = sincos_2d(3, 5, 8), sincos_1d(3, 4), sincos_1d(5, 4)
    assert table.shape == (15, 8)
    for r in range(3):
        for c in range(5):
            torch.testing.assert_close(table[r * 5 + c], torch.cat([rows[r], columns[c]]))


def test_a_layout_has_one_row_per_position() -> None:
    assert sincos(Grid(2, 3), 8).shape == (6, 8)
    assert sincos(Sequence(5, num_positions=9), 8).shape == (9, 8)


def test_the_table_is_single_precision_rounded_from_double() -> None:
    table = sincos_1d(512, 64)
    assert table.dtype == torch.float32
    assert float(table[511, 0]) == float(torch.tensor(math.sin(511)))
