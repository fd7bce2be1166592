"""Boxes drawn as images, as Emu2 reads them."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.data.box_images import box_image


def test_the_outline_is_three_pixels_thick_at_448() -> None:
    image = box_image((0.25, 0.25, 0.75, 0.75), (448, 448))
    assert image.shape == (448, 448, 3)
    assert set(np.unique(image)) == {0, 255}
    row = image[224, :, 0]
    assert np.flatnonzero(row).tolist() == [112, 113, 114, 333, 334, 335]
    assert np.flatnonzero(image[:, 224, 0]).tolist() == [112, 113, 114, 333, 334, 335]


@pytest.mark.parametrize(("size", "line"), [(64, 1), (224, 2), (448, 3), (896, 6)])
def test_the_outline_grows_with_the_image(size: int, line: int) -> None:
    assert (box_image((0, 0, 1, 1), (size, size))[size // 2, : size // 2, 0] > 0).sum() == line


def test_thin_boxes_are_seen_and_nothing_lies_outside() -> None:
    assert (box_image((0.5, 0.2, 0.5, 0.8), (64, 64)) > 0).any()
    assert (box_image((1, 1, 1, 1), (64, 64)) > 0).any()
    assert (box_image((-1, -1, 2, 2), (64, 64))[1:-1, 1:-1] == 0).all()
