"""Stored crops on a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from fourm.report.colors import instance_color
from fourm.report.crops import crops
from tests.unit.report.pixels import pixel

WHOLE = {"box": (0.0, 0.0, 1.0, 1.0), "hflip": False}


def test_crops_are_drawn_where_they_are_each_in_its_colour() -> None:
    rows = [WHOLE, {"box": (0.25, 0.5, 0.75, 1.0), "hflip": True}]
    picture = crops(rows, Image.new("RGB", (256, 256)))
    assert pixel(picture, 0, 128) == pixel(picture, 255, 128) == instance_color(0)
    assert pixel(picture, 64, 200) == pixel(picture, 191, 200) == instance_color(1)
    assert pixel(picture, 128, 200) == (0, 0, 0)


def test_a_mirrored_crop_is_marked() -> None:
    def drawn(hflip: bool) -> np.ndarray[Any, Any]:
        return np.asarray(crops([{**WHOLE, "hflip": hflip}]))

    assert (drawn(True) != drawn(False)).any()


def test_the_names_of_crops_at_the_same_place_are_both_seen() -> None:
    picture = np.asarray(crops([WHOLE, {**WHOLE, "hflip": True}], Image.new("RGB", (256, 256))))
    for number in range(2):
        assert (picture[8:14, 8:60] == instance_color(number)).all(axis=-1).any()


def test_no_crops_are_said_to_be_none() -> None:
    background = Image.new("RGB", (256, 256))
    assert np.asarray(crops([], background)).any()
    assert not np.asarray(background).any()
