"""Drawing on pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fourm.report.canvas import enlarge, place, rectangle, tag


def test_enlarging_repeats_pixels() -> None:
    value = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    large = np.asarray(enlarge(Image.fromarray(value), 10))
    np.testing.assert_array_equal(large, value.repeat(3, axis=0).repeat(3, axis=1))


def test_places_are_pixels_and_stay_inside() -> None:
    picture = Image.new("RGB", (101, 51))
    assert place(picture, (0.5, 1.0)) == (50, 50)
    assert place(picture, (-3, float("nan"))) == (0, 0)
    assert rectangle(picture, (0.9, 2.0, 0.1, 0.5)) == (10, 25, 90, 50)


def test_a_tag_ends_where_the_next_may_begin() -> None:
    picture = Image.new("RGB", (200, 50))
    end = tag(picture, "left", 0, 0, (255, 0, 0))
    columns = np.nonzero(np.asarray(picture).any((0, 2)))[0]
    assert (columns.min(), columns.max() + 1) == (0, end)
