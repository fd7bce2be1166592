"""The table of one sample: columns in step, reaches as each modality asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm.errors import DataError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.models.ask import patchify
from fourm.objectives.table import TableBuilder, select_patches

N = np.array


def test_modalities_follow_one_another_with_all_their_columns() -> None:
    builder = TableBuilder(separate=True)
    builder.add(2, N([7, 5, 6]), target_ids=N([70, 50, 60]))
    builder.add(0, N([], dtype=np.int64))
    builder.add(1, N([0, 1]), ids=N([5, 300]), target_ids=N([300, 6]), causal=True)
    row = builder.build()
    assert len(row) == 5
    assert row.modality.tolist() == [2, 2, 2, 1, 1]
    assert row.position.tolist() == [7, 5, 6, 0, 1]
    assert row.ids.tolist() == [-1, -1, -1, 5, 300]
    assert row.target_ids.tolist() == [70, 50, 60, 300, 6]
    assert row.reach.tolist() == [3, 3, 3, 4, 5]
    assert row.group.tolist() == [2, 2, 2, 1, 1]


def test_together_modalities_see_what_came_before_them() -> None:
    builder = TableBuilder()
    builder.add(2, N([0, 1]))
    builder.add(1, N([0]))
    row = builder.build()
    assert row.reach.tolist() == [2, 2, 3]
    assert row.group.tolist() == [0, 0, 0]


def test_in_a_full_table_everything_sees_everything() -> None:
    builder = TableBuilder(full=True)
    builder.add(2, N([0, 1]), name="x", values=np.ones((2, 3)))
    builder.add(1, N([0]), ids=N([9]))
    row = builder.build()
    assert row.reach.tolist() == [3, 3, 3]
    assert row.group.tolist() == [0, 0, 0]
    assert list(row.values) == ["x"]


@pytest.mark.parametrize("full", [True, False])
def test_an_empty_table_is_a_table(full: bool) -> None:
    row = TableBuilder(full=full).build()
    assert len(row) == 0
    assert all(len(getattr(row, name)) == 0 for name in ("position", "ids", "target_ids", "reach", "group"))


RGB = Modality("rgb", Grid(2, 3, 2), Continuous(12), source="rgb", decode="image", direction="input", channels=3)


def test_patches_are_read_as_row_column_channel() -> None:
    image = np.arange(3 * 4 * 6).reshape(3, 4, 6)
    patch = select_patches(image, RGB, N([4]))[0]  # second row, middle column: rows 2-3, columns 2-3
    assert patch.tolist() == [image[c, y, x] for y in (2, 3) for x in (2, 3) for c in range(3)]


def test_selected_patches_are_those_of_the_whole_image() -> None:
    image = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    order = N([5, 0, 3])
    whole = patchify(torch.from_numpy(image)[None], 2)[0]
    assert torch.equal(torch.from_numpy(select_patches(image, RGB, order)), whole[order])


def test_no_place_gives_no_patch() -> None:
    assert select_patches(np.zeros((3, 4, 6)), RGB, np.zeros(0, np.int64)).shape == (0, 12)


def test_an_image_of_another_size_is_an_error() -> None:
    with pytest.raises(DataError, match=r"modality 'rgb': an image has shape \(3, 6, 4\); expected \(3, 4, 6\)"):
        select_patches(np.zeros((3, 6, 4)), RGB, N([0]))
