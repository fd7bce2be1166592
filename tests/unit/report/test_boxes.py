"""Boxes on a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fourm.report.boxes import boxes
from fourm.report.colors import palette
from tests.unit.report.pixels import pixel


def test_boxes_are_drawn_where_they_are_in_the_colour_of_their_class() -> None:
    classes = ("sofa", "bed")
    instance = {"boxes": [0.25, 0.5, 0.75, 1.0], "class_name": "bed", "score": 1.0}
    picture = boxes({"instances": [instance]}, Image.new("RGB", (64, 64)), classes=classes)
    assert picture.size == (256, 256)
    color = tuple(palette(2)[1])
    assert pixel(picture, 64, 200) == pixel(picture, 191, 200) == pixel(picture, 128, 255) == color
    assert pixel(picture, 128, 200) == (0, 0, 0)


def test_the_name_of_a_box_at_the_border_stays_inside() -> None:
    wide = [{"boxes": [0.98, 0.98, 1.0, 1.0], "class_name": "wardrobe"}]
    narrow = [{"boxes": [0.98, 0.98, 1.0, 1.0], "class_name": ""}]
    with_name, without = (np.asarray(boxes(i)) for i in (wide, narrow))
    assert (with_name[205:, 150:200] != without[205:, 150:200]).any()


def test_boxes_do_not_change_the_background() -> None:
    background = Image.new("RGB", (300, 300))
    boxes([{"boxes": [0, 0, 1, 1], "class_name": "bed"}], background)
    assert np.asarray(background).max() == 0


def test_the_name_of_a_large_box_covers_no_small_one() -> None:
    classes = ("wardrobe", "cup")
    large = {"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "wardrobe"}
    small = {"boxes": [0.02, 0.01, 0.24, 0.5], "class_name": "cup"}
    for order in ([large, small], [small, large]):
        picture = boxes(order, Image.new("RGB", (256, 256)), classes=classes)
        assert pixel(picture, round(0.24 * 255), 10) == tuple(palette(2)[1])
