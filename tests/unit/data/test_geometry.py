from __future__ import annotations

import numpy as np
import pytest

from fourm.data.configs import CropConfig
from fourm.data.geometry import Geometry, center_box, draw, draw_settings, from_settings, random_box, whole
from fourm.errors import DataError

SIZE = (40, 60)


def test_none_is_the_whole_image(rng: np.random.Generator) -> None:
    assert draw(CropConfig(), 0.0, rng, SIZE, (8, 8)) == whole(SIZE)


@pytest.mark.parametrize(
    ("target", "box"),
    [((8, 8), (0, 10, 40, 40)), ((8, 16), (5, 0, 30, 60)), ((16, 8), (0, 20, 40, 20)), ((2, 3), (0, 0, 40, 60))],
)
def test_center_is_the_largest_box_of_the_targets_shape(
    rng: np.random.Generator, target: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    found = draw(CropConfig("center"), 0.0, rng, SIZE, target)
    assert (found.top, found.left, found.height, found.width) == box


def test_random_boxes_keep_to_scale_ratio_and_image(rng: np.random.Generator) -> None:
    config = CropConfig("random_resized", scale=(0.2, 0.5), ratio=(0.75, 4 / 3))
    boxes = np.array([random_box(config, rng, (400, 600)) for _ in range(300)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 400).all() and (left + width <= 600).all()  # noqa: PT018
    share = height * width / (400 * 600)
    assert 0.19 < share.min() < 0.25
    assert 0.45 < share.max() < 0.51
    assert 0.74 < (width / height).min() < 0.8
    assert 1.25 < (width / height).max() < 1.35
    assert len(set(top)) > 100


def test_an_impossible_box_falls_back_to_the_middle(rng: np.random.Generator) -> None:
    assert random_box(CropConfig("random_resized", scale=(1, 1), ratio=(1, 1)), rng, (10, 100)) == (0, 45, 10, 10)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (1.0, 200, 200), (0.5, 70, 130)])
def test_flips_come_with_their_probability(rng: np.random.Generator, probability: float, low: int, high: int) -> None:
    flips = sum(draw(CropConfig("center"), probability, rng, SIZE, (8, 8)).hflip for _ in range(200))
    assert low <= flips <= high


STORED = np.array([[0, 10, 40, 40, 0], [5, 0, 30, 20, 1]], np.float64)


def test_stored_crops_bring_box_flip_and_row(rng: np.random.Generator) -> None:
    found = {draw(CropConfig("crop_settings"), 0.0, rng, SIZE, (8, 8), STORED) for _ in range(50)}
    assert found == {Geometry(0, 10, 40, 40, False, SIZE, 0), Geometry(5, 0, 30, 20, True, SIZE, 1)}


def test_without_augmentation_the_first_stored_crop_is_used(rng: np.random.Generator) -> None:
    config = CropConfig("crop_settings", augment=False)
    assert all(draw(config, 0.0, rng, SIZE, (8, 8), STORED).row == 0 for _ in range(20))


def test_a_stored_crop_of_another_image_size_is_an_error() -> None:
    with pytest.raises(DataError, match="stored crop 0 .* lies outside the image of 40 x 49"):
        from_settings(STORED, 0, (40, 49))


def test_missing_stored_crops_are_an_error(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="no stored crops"):
        draw(CropConfig("crop_settings"), 0.0, rng, SIZE, (8, 8), None)


def test_an_image_of_half_the_resolution_is_cropped_in_proportion() -> None:
    geometry = Geometry(10, 20, 20, 30, False, SIZE)
    assert geometry.box_in(SIZE) == (10, 20, 30, 50)
    assert geometry.box_in((20, 30)) == (5, 10, 15, 25)
    assert geometry.relative_box == (0.25, 1 / 3, 0.5, 0.5)


def test_rounding_to_an_odd_size_is_tolerated_but_another_shape_is_not() -> None:
    assert whole(SIZE).box_in((27, 41)) == (0, 0, 27, 41)
    with pytest.raises(ValueError, match="60 x 40 .* not the shape of its aligned image, 40 x 60"):
        whole(SIZE).box_in((60, 40))


def test_settings_to_store_begin_with_the_unflipped_centre(rng: np.random.Generator) -> None:
    rows = draw_settings(20, SIZE, (8, 8), rng)
    assert rows.shape == (20, 5)
    assert rows[0].tolist() == [*center_box(SIZE, 1.0), 0]
    assert len({tuple(row) for row in rows}) == 20
    for row in range(20):
        from_settings(rows, row, SIZE)


def test_settings_can_vary_by_flips_only(rng: np.random.Generator) -> None:
    rows = draw_settings(2, SIZE, (8, 8), rng, CropConfig("none"), hflip=1.0)
    assert rows.tolist() == [[0, 10, 40, 40, 0], [0, 10, 40, 40, 1]]
