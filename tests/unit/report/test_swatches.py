"""Palettes as bands of colour."""

from __future__ import annotations

from fourm.report.swatches import swatches
from tests.unit.report.pixels import pixel


def test_each_band_has_its_colour_from_top_to_bottom() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    picture = swatches(colors, size=90)
    assert picture.size == (90, 90)
    assert [pixel(picture, 89, y) for y in (0, 29, 30, 59, 60, 89)] == [c for color in colors for c in (color, color)]


def test_seven_bands_share_the_height_and_are_named() -> None:
    colors = [(10 * n, 20, 200) for n in range(7)]
    picture = swatches(colors)
    assert picture.size == (192, 192)
    assert [pixel(picture, 191, round((n + 0.5) * 192 / 7)) for n in range(7)] == colors
    assert len(set(picture.crop((0, 0, 100, 27)).getdata())) > 1


def test_numbers_outside_a_byte_are_clipped_and_many_colours_keep_a_row_each() -> None:
    assert pixel(swatches([(-5, 300, 128)]), 191, 191) == (0, 255, 128)
    many = swatches([(n % 256, 0, 0) for n in range(500)])
    assert many.height == 500
    assert pixel(many, 0, 499) == (499 % 256, 0, 0)
