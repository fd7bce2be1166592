"""Masks in their boxes, and the points they were asked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from fourm.report.colors import instance_color
from fourm.report.instances import border, instances, stretched
from tests.unit.report.pixels import pixel

SIDE = 224
BLACK = Image.new("RGB", (SIDE, SIDE))
FULL = np.ones((64, 64))
UPPER_LEFT = np.pad(np.ones((32, 32)), (0, 32))


def found(box: tuple[float, ...], mask: Any = None, point: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    return {"point": point, "instances": [{"box": box, "token_ids": [0] * 16, "mask": mask}]}


def test_a_mask_colours_its_box_and_nothing_else() -> None:
    shown = np.asarray(instances([found((0.25, 0.5, 0.75, 1.0), FULL)], BLACK))[:, :200]
    rows, columns = np.nonzero(shown.any(-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (56, 167, 112, 223)
    assert shown[112:, 56:168].any(-1).all()
    tint = np.rint(0.45 * np.array(instance_color(0)))
    assert (shown[150, 100] == tint).all()
    assert tuple(shown[112, 100].tolist()) == tuple(shown[150, 56].tolist()) == instance_color(0)  # its outline


def test_a_mask_fills_its_part_of_the_box() -> None:
    picture = instances([found((0.25, 0.25, 0.75, 0.75), UPPER_LEFT)], BLACK)
    assert pixel(picture, 70, 70) != (0, 0, 0)
    assert pixel(picture, 150, 70) == pixel(picture, 70, 150) == pixel(picture, 150, 150) == (0, 0, 0)


def test_a_mirrored_answer_gives_a_mirrored_picture() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((64, 64))
    given = [found((20 / 223, 30 / 223, 140 / 223, 200 / 223), mask, (60 / 223, 80 / 223))]
    flipped = [found((83 / 223, 30 / 223, 203 / 223, 200 / 223), mask[:, ::-1], (163 / 223, 80 / 223))]
    one, other = (np.asarray(instances(i, BLACK)) for i in (given, flipped))
    np.testing.assert_array_equal(one, other[:, ::-1])


def test_without_a_mask_the_box_is_drawn() -> None:
    shown = instances([found((0.25, 0.25, 0.75, 0.75))], BLACK)
    assert pixel(shown, 56, 112) == pixel(shown, 112, 167) == instance_color(0)
    assert pixel(shown, 112, 112) == (0, 0, 0)


def test_points_have_the_colour_of_their_first_instance_and_are_white_without_one() -> None:
    points = [found((0.0, 0.0, 0.1, 0.1), point=(0.25, 0.5)), found((0.0, 0.9, 0.1, 1.0), point=(0.5, 0.5))]
    picture = instances([*points, {"point": (0.75, 0.5), "instances": []}], BLACK)
    assert [pixel(picture, x, 112) for x in (56, 112, 167)] == [instance_color(0), instance_color(1), (255, 255, 255)]


def test_a_mask_is_stretched_to_its_box_and_cut_at_one_half() -> None:
    inside = stretched(np.array([[0.9, 0.1]]), 3, 8)
    assert inside.tolist() == [[True] * 4 + [False] * 4] * 3
    assert not stretched(np.array([[np.nan]]), 2, 2).any()


def test_the_border_of_a_mask_is_as_wide_as_told() -> None:
    inside = np.pad(np.ones((5, 5), bool), 1)
    assert border(inside, 1).sum() == 16
    assert border(inside, 2).sum() == 24
    assert border(np.ones((4, 4), bool), 1).sum() == 12
