"""People: boxes, the axes of their bodies, joints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.report.colors import instance_color
from fourm.report.poses import _AXES, poses
from tests.unit.report.pixels import pixel

SIDE = 224
BLACK = Image.new("RGB", (SIDE, SIDE))
FACING = [1, 0, 0, 0, -1, 0, 0, 0, -1]
"""A body that stands upright and looks at the viewer: its up is the picture's up, its front comes out of it."""

MIRROR = np.diag([-1, 1, 1])
COLORS = dict(_AXES)


def person(**facts: Any) -> dict[str, Any]:
    return {"bbox": (0.25, 0.25, 0.75, 0.75), **facts}


def where(picture: Image.Image, color: tuple[int, ...]) -> np.ndarray:
    """(N, 2) x and y of the pixels of a colour, above the key of the axes."""
    rows, columns = np.nonzero((np.asarray(picture) == color).all(-1)[:-25])
    return np.stack([columns, rows], 1)


def test_each_person_has_a_box_in_a_colour_of_its_own() -> None:
    people = [person(), {"bbox": (0.0, 0.0, 0.2, 0.2)}]
    picture = poses(people, BLACK)
    assert picture.size == (SIDE, SIDE)
    assert pixel(picture, 56, 150) == pixel(picture, 167, 150) == instance_color(0)
    assert pixel(picture, 0, 40) == instance_color(1) != instance_color(0)
    assert pixel(picture, 112, 112) == (0, 0, 0)


def test_the_axes_of_an_upright_body_point_to_its_left_up_and_to_the_viewer() -> None:
    picture = poses([person(global_orient=FACING)], BLACK)
    left, up, front = (where(picture, COLORS[name]) for name in ("left", "up", "front"))
    assert left[:, 0].min() >= 112
    assert left[:, 0].max() > 150  # its left hand is on the viewer's right
    assert abs(left[:, 1] - 112).max() <= 4
    assert up[:, 1].min() < 74
    assert up[:, 1].max() <= 112
    assert abs(front - 112).max() <= 3
    assert len(front) > 3


def test_a_body_turned_around_shows_its_left_on_the_left() -> None:
    away = [-1, 0, 0, 0, -1, 0, 0, 0, 1]
    left = where(poses([person(global_orient=away)], BLACK), COLORS["left"])
    assert left[:, 0].max() <= 112
    assert left[:, 0].min() < 74


def test_a_mirrored_body_gives_a_mirrored_picture() -> None:
    turned = np.array([[0.8, 0, 0.6], [0, -1, 0], [0.6, 0, -0.8]])
    joints = np.array([[70, 110], [90, 150], [160, 120]]) / (SIDE - 1)
    shown = poses([person(bbox=np.array([66, 68, 134, 178]) / 223, global_orient=turned, keypoints=joints)], BLACK)
    flipped = joints * [-1, 1] + [1, 0]
    mirrored = poses(
        [person(bbox=np.array([89, 68, 157, 178]) / 223, global_orient=MIRROR @ turned, keypoints=flipped)], BLACK
    )
    one, other = (np.asarray(picture, dtype=int)[90:195] for picture in (shown, mirrored))
    # Single pixels at the rims of slanting arrows may differ.
    assert (np.abs(one - other[:, ::-1]).max(-1) > 0).mean() < 0.005
    assert (np.abs(one - other).max(-1) > 0).mean() > 0.05


def test_joints_are_dots_that_bones_connect() -> None:
    joints = np.full((17, 3), 0.5)
    joints[:, 2] = 0
    joints[5], joints[7], joints[9] = (0.3, 0.5, 1), (0.5, 0.5, 0.9), (0.7, 0.5, 0)
    picture = poses([person(bbox=(0, 0, 0.01, 0.01), keypoints=joints)], BLACK)
    color = instance_color(0)
    assert pixel(picture, 67, 112) == pixel(picture, 112, 112) == pixel(picture, 90, 112) == color
    assert pixel(picture, 130, 112) == pixel(picture, 156, 112) == (0, 0, 0)  # the wrist was not seen


def test_joints_of_an_unknown_body_are_dots_alone() -> None:
    picture = poses([person(bbox=(0, 0, 0.01, 0.01), keypoints=[(0.3, 0.5), (0.7, 0.5)])], BLACK)
    assert pixel(picture, 67, 112) == pixel(picture, 156, 112) == instance_color(0)
    assert pixel(picture, 112, 112) == (0, 0, 0)


def test_the_key_of_the_axes_is_there_only_if_axes_are() -> None:
    assert (np.asarray(poses([person(global_orient=FACING)], BLACK))[-2] == COLORS["up"]).all(-1).any()
    assert np.asarray(poses([person()], BLACK))[-20:].max() == 0


def test_joints_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keypoints of shape \(17,\)"):
        poses([person(keypoints=[0.5] * 17)])
