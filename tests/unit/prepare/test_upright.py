"""Labels are turned as photographs are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm.errors import DataError
from fourm.prepare.labelers.base import Origin
from fourm.prepare.photos.load import load
from fourm.prepare.photos.recipe import ImageConfig
from fourm.prepare.upright import turn_for, turn_pixels
from tests.photographs import encoded, quadrants


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_turn_as_the_photograph_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = load(encoded(quadrants(), exif=exif), "a.png", ImageConfig())
    assert photo.origin.orientation == orientation
    assert (turn_pixels(np.asarray(quadrants()), orientation) == np.asarray(photo.image)).all()


def test_the_shape_tells_a_quarter_turn() -> None:
    turned = Origin("a.jpg", 60, 40, ("converted from CMYK", "turned upright (EXIF orientation 8)"))
    assert turn_for((30, 20), turned, "auto") == 8
    assert turn_for((20, 30), turned, "auto") == 1
    with pytest.raises(DataError, match="30 x 20 pixels .* has 40 x 60"):
        turn_for((20, 30), turned, "file")
    with pytest.raises(DataError, match="20 x 30 pixels .* has 60 x 40"):
        turn_for((30, 20), turned, "upright")


def test_a_square_is_taken_as_upright() -> None:
    square = Origin("a.jpg", 50, 50, ("turned upright (EXIF orientation 6)",))
    assert turn_for((25, 25), square, "auto") == 1
    assert turn_for((25, 25), square, "file") == 6
