"""Polygons and runs of pixels as masks: a pixel belongs to a region if its centre does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm.data.instances import contains
from fourm.data.regions import polygon_mask, segmentation_mask, unpack
from fourm.errors import DataError

SIZE = (20, 30)


def square(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def packed(lengths: list[int]) -> str:
    """The other direction, as COCO's tools write it."""
    text = ""
    for i, length in enumerate(lengths):
        value = length - (lengths[i - 2] if i > 2 else 0)
        while True:
            bits = value & 31
            value >>= 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + (bits if done else bits | 32))
            if done:
                break
    return text


def test_a_square_has_the_pixels_it_covers() -> None:
    mask = segmentation_mask([square(3, 5, 9, 17)], SIZE, SIZE)
    expected = np.zeros(SIZE, bool)
    expected[3:9, 5:17] = True
    assert (mask == expected).all()


def test_several_polygons_are_one_region_also_where_they_overlap() -> None:
    mask = segmentation_mask([square(0, 0, 4, 4), square(2, 2, 6, 6)], SIZE, SIZE)
    assert mask.sum() == 16 + 16 - 4


def test_a_region_follows_the_size_of_the_photograph() -> None:
    mask = segmentation_mask([square(4, 10, 12, 20)], SIZE, (10, 15))
    assert np.argwhere(mask).min(0).tolist() == [2, 5]
    assert mask.sum() == 4 * 5


@given(st.lists(st.tuples(st.floats(-5, 35), st.floats(-5, 25)), min_size=3, max_size=8))
def test_any_polygon_has_the_pixels_whose_centres_lie_in_it(corners: list[tuple[float, float]]) -> None:
    outline = np.round(np.array(corners), 1) + np.sqrt([2, 3]) / 50  # no centre lies on an edge
    mask = polygon_mask(outline, SIZE, SIZE)
    centres = np.argwhere(np.ones(SIZE))[:, ::-1] + 0.5
    assert (mask.ravel() == contains(outline, np.array([len(outline)]), centres)[0]).all()


def test_runs_go_down_the_columns_and_begin_outside() -> None:
    mask = segmentation_mask({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3), (2, 3))
    assert mask.tolist() == [[False, True, False], [True, False, False]]


@given(st.lists(st.integers(0, 10**6), max_size=20))
def test_packed_runs_are_the_same(lengths: list[int]) -> None:
    assert unpack(packed(lengths)).tolist() == lengths


def test_packed_runs_are_read_as_cocos_own_tools_write_them() -> None:
    mask = np.zeros((200, 300), bool)
    mask[50:120, 30:33] = True
    mask[60:70, 31] = False
    runs = {"size": [200, 300], "counts": "Rm5V2R4TNXLX1h3d0VSd1"}  # by pycocotools
    assert (segmentation_mask(runs, (200, 300), (200, 300)) == mask).all()


def runs(mask: np.ndarray) -> dict[str, object]:
    columns = mask.T.ravel()
    ends = [*(np.flatnonzero(np.diff(columns)) + 1).tolist(), columns.size]
    lengths = np.diff([0, *ends]).tolist()
    return {"size": [*mask.shape], "counts": [0, *lengths] if columns[0] else lengths}


@given(st.integers(0, 2**16 - 1))
def test_runs_of_another_size_are_taken_at_centres(bits: int) -> None:
    mask = np.array([bits >> n & 1 for n in range(16)], bool).reshape(4, 4)
    assert (segmentation_mask(runs(mask), (4, 4), (4, 4)) == mask).all()
    assert (segmentation_mask(runs(mask), (4, 4), (2, 2)) == mask[1::2, 1::2]).all()
    assert (segmentation_mask(runs(mask), (4, 4), (4, 8)) == mask.repeat(2, 1)).all()


def test_a_small_file_does_not_fill_the_memory() -> None:
    side = 10**7
    huge = {"size": [side, side], "counts": [side * side // 2, side * side // 2]}
    with pytest.raises(DataError, match="10000000 x 10000000 .* but the picture of the annotation has 20 x 30"):
        segmentation_mask(huge, SIZE, SIZE)
    assert segmentation_mask(huge, (side, side), (4, 4)).tolist() == [[False, False, True, True]] * 4


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "runs of 3 pixels for a mask of 2 x 3"),
        ({"size": [2, 3], "counts": "0@"}, "runs"),
        ({"size": [2, 3], "counts": "\x7f"}, "size and counts"),
        ({"counts": [6]}, "size and counts"),
        ({"size": [2, 3], "counts": [2**70]}, "size and counts"),
        ({"size": [2, 3], "counts": [2**63 - 1, 2**63 - 1, 8]}, "runs of 18446744073709551622 pixels"),
        ({"size": [4, 6], "counts": [24]}, "runs for 4 x 6 pixels .* has 2 x 3"),
        ([[1, 2, 3]], "polygon"),
        ([[1, 2, 3, float("nan"), 3, 4]], "finite"),
        ("nothing", "polygons or runs"),
    ],
)
def test_what_is_no_region_is_told(segmentation: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        segmentation_mask(segmentation, (2, 3), (2, 3))
