"""Patches that are resized one by one are those of the resized image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm.data.geometry import Geometry
from fourm.data.patches import resized_patches
from fourm.layouts import Grid

GRID = Grid(7, 14, 16)


@pytest.fixture
def photograph(rng: np.random.Generator) -> np.ndarray:
    """(180, 260, 3): soft shapes under noise."""
    soft = Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).resize((260, 180), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(soft) + rng.normal(0, 12, (180, 260, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize(
    "box", [(0, 0, 180, 260), (11, 20, 60, 150), (100, 5, 80, 80), (3, 4, 130, 224), (90, 99, 5, 7)]
)
def test_they_are_pillow_s_within_two_levels(
    photograph: np.ndarray, box: tuple[int, int, int, int], hflip: bool
) -> None:
    top, left, height, width = box
    image = Image.fromarray(photograph[top : top + height, left : left + width])
    whole = np.asarray(image.resize(GRID.image_size[::-1], Image.Resampling.BICUBIC)).astype(int)
    whole = whole[:, ::-1] if hflip else whole
    blocks = whole.reshape(7, 16, 14, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
    places = np.random.default_rng(0).permutation(GRID.num_tokens)
    geometry = Geometry(top, left, height, width, hflip, (180, 260))
    found = resized_patches(photograph, geometry, GRID, places)
    apart = np.abs(found - blocks[places])
    assert apart.max() <= 2
    assert apart.mean() < 0.35
    np.testing.assert_array_equal(resized_patches(photograph, geometry, GRID, places[:3]), found[:3])


def test_an_image_of_another_shape_is_refused(photograph: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not the shape of its aligned image"):
        resized_patches(photograph, Geometry(0, 0, 10, 10, False, (180, 180)), GRID, np.array([0]))
