"""Boxes, people and instances follow the crop and the mirror; palettes and points are drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fourm.data.geometry import Geometry, from_settings, whole
from fourm.data.instances import contains, crop_boxes, crop_people, draw_palette, draw_points, mirror_person

SIZE = (16, 16)
LEFT_HALF = Geometry(0, 0, 16, 8, False, SIZE)
FLIP = whole(SIZE, hflip=True)


def box(*coordinates: float) -> list[dict[str, Any]]:
    return [{"boxes": list(coordinates), "class_name": "bed"}]


def person(*pixels: float, **more: Any) -> dict[str, Any]:
    return {"bbox": pixels, **more}


def test_boxes_are_cut_and_mirrored_with_the_crop() -> None:
    assert crop_boxes(box(0.25, 0.5, 0.75, 1.0), LEFT_HALF) == box(0.5, 0.5, 1.0, 1.0)
    mirrored = dataclasses.replace(LEFT_HALF, hflip=True)
    assert crop_boxes(box(0.25, 0.5, 0.75, 1.0), mirrored) == box(0.0, 0.5, 0.5, 1.0)
    assert crop_boxes(box(0.25, 0.5, 0.75, 1.0), whole(SIZE)) == box(0.25, 0.5, 0.75, 1.0)


def test_boxes_out_of_sight_are_dropped() -> None:
    assert crop_boxes(box(0.6, 0, 1, 1), LEFT_HALF) == []
    assert crop_boxes(box(0.46, 0, 1, 1), LEFT_HALF) == []  # 4 of 54 hundredths are visible
    assert len(crop_boxes(box(0.4, 0, 1, 1), LEFT_HALF)) == 1


def test_people_leave_their_pixels_for_shares_of_the_crop() -> None:
    assert crop_people([person(4, 8, 12, 16)], whole(SIZE)) == [person(0.25, 0.5, 0.75, 1.0)]
    assert crop_people([person(4, 8, 12, 16)], LEFT_HALF) == [person(0.5, 0.5, 1.0, 1.0)]
    assert crop_people([person(4, 8, 12, 16)], dataclasses.replace(LEFT_HALF, hflip=True)) == [
        person(0.0, 0.5, 0.5, 1.0)
    ]


def test_people_out_of_sight_are_dropped() -> None:
    assert crop_people([person(9, 0, 16, 16), person(0, 0, 8, 8)], LEFT_HALF) == [person(0.0, 0.0, 1.0, 0.5)]


def test_stored_crops_are_pixels_too_so_that_people_need_no_image() -> None:
    stored = np.array([[4, 2, 8, 8, 1]], np.float32)
    for geometry in (from_settings(stored, 0), from_settings(stored, 0, SIZE)):
        (found,) = crop_people([person(2, 4, 6, 12)], geometry)
        assert found["bbox"] == pytest.approx((0.5, 0.0, 1.0, 1.0))


def test_a_mirror_turns_rotation_and_camera_and_keeps_the_shape() -> None:
    angle = 0.4
    yaw = [np.cos(angle), 0, np.sin(angle), 0, 1, 0, -np.sin(angle), 0, np.cos(angle)]
    back = [np.cos(angle), 0, -np.sin(angle), 0, 1, 0, np.sin(angle), 0, np.cos(angle)]
    nod = [1, 0, 0, 0, np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle)]
    (turned, nodding) = crop_people(
        [
            person(0, 0, 4, 16, global_orient=yaw, camera=[0.9, 0.2, -0.3], betas=[1] * 10),
            person(0, 0, 4, 16, global_orient=nod),
        ],
        FLIP,
    )
    np.testing.assert_allclose(turned["global_orient"], back)
    np.testing.assert_allclose(nodding["global_orient"], nod)
    assert turned["camera"] == [0.9, -0.2, -0.3]
    assert turned["betas"] == [1] * 10
    assert turned["bbox"] == (0.75, 0.0, 1.0, 1.0)


def test_a_mirrored_rotation_moves_points_as_the_mirror_does(rng: np.random.Generator) -> None:
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    mirror = np.diag([-1.0, 1.0, 1.0])
    found = mirror_person(person(0, 0, 1, 1, global_orient=rotation.ravel().tolist()))["global_orient"]
    np.testing.assert_allclose(np.reshape(found, (3, 3)), mirror @ rotation @ mirror, atol=1e-12)


def test_ids_of_poses_are_exchanged_for_those_of_the_mirrored_body_or_dropped() -> None:
    straight, other = [1] * 8, [2] * 8
    assert "pose_tokens" not in mirror_person(person(0, 0, 1, 1, pose_tokens=straight))
    both = person(0, 0, 1, 1, pose_tokens=straight, mirrored_pose_tokens=other)
    mirrored = mirror_person(both)
    assert (mirrored["pose_tokens"], mirrored["mirrored_pose_tokens"]) == (other, straight)
    assert mirror_person(mirrored) == both


def test_key_points_follow_their_person_and_change_sides_in_a_mirror() -> None:
    joints = [[4.0, 8.0, 0.9]] * 9 + [[6.0, 8.0, 0.8]] + [[12.0, 4.0, 0.7]] * 7  # 9 is the left wrist, 10 the right one

    (plain,) = crop_people([person(0, 0, 16, 16, keypoints=joints)], LEFT_HALF)
    (seen,) = crop_people([person(0, 0, 16, 16, keypoints=joints)], dataclasses.replace(LEFT_HALF, hflip=True))

    assert plain["keypoints"][9] == [0.75, 0.5, 0.8]
    assert plain["keypoints"][10] == [1.5, 0.25, 0.0]  # out of the crop, so it is not seen
    assert seen["keypoints"][10] == [0.25, 0.5, 0.8]
    assert seen["keypoints"][9] == [-0.5, 0.25, 0.0]
    assert mirror_person(seen)["keypoints"] == plain["keypoints"]


def test_without_a_mirror_people_are_as_they_were() -> None:
    facts = {"pose_tokens": [1] * 8, "global_orient": [0.1] * 9, "camera": [1, 2, 3]}
    assert crop_people([person(0, 0, 16, 16, **facts)], whole(SIZE)) == [person(0.0, 0.0, 1.0, 1.0, **facts)]


def test_palettes_of_all_sizes_are_drawn(rng: np.random.Generator) -> None:
    palettes = {n: [(n, n, n)] * n for n in range(1, 8)}
    found = [len(draw_palette(palettes, rng)) for _ in range(700)]
    assert np.bincount(found, minlength=8)[1:].min() > 60


SQUARE = [[2, 2], [6, 2], [6, 6], [2, 6]]
CROSSED = [[0, 0], [4, 4], [4, 0], [0, 4]]


@pytest.mark.parametrize(
    ("outline", "inside", "outside"),
    [
        (SQUARE, [(3, 3), (2, 2), (6, 4), (4, 6), (6, 6)], [(1, 3), (7, 4), (4, 7), (1, 2), (8, 6), (8, 2)]),
        ([[0, 0], [8, 0], [0, 8]], [(1, 1), (4, 4), (0, 8), (0, 0)], [(5, 5), (-1, 0), (9, 0)]),
        (CROSSED, [(1, 1), (3, 2), (1, 2), (2, 2)], [(2, 1), (2, 3)]),
        ([[3, 3]], [(3, 3)], [(2, 3), (4, 3)]),
        ([[1, 1], [5, 3]], [(3, 2), (1, 1)], [(3, 3), (7, 4), (-1, 0)]),
    ],
)
def test_points_lie_in_a_polygon_or_on_its_border(outline: Any, inside: Any, outside: Any) -> None:
    for turned in (outline, outline[::-1]):
        found = contains(np.array(turned), np.array([len(turned)]), np.array(inside + outside))
        assert found[0].tolist() == [True] * len(inside) + [False] * len(outside)


def test_each_polygon_closes_by_itself(rng: np.random.Generator) -> None:
    outlines = [rng.integers(0, 30, (n, 2)) for n in (3, 1, 5, 8)]
    points = rng.integers(0, 30, (50, 2))
    together = contains(np.concatenate(outlines), np.array([3, 1, 5, 8]), points)
    for found, outline in zip(together, outlines, strict=True):
        np.testing.assert_array_equal(found, contains(outline, np.array([len(outline)]), points)[0])


def test_seven_points_know_the_instances_that_hold_them(rng: np.random.Generator) -> None:
    left = [[0, 0], [112, 0], [112, 224], [0, 224]]
    top = [[0, 0], [224, 0], [224, 112], [0, 112]]
    crop = {
        "points": np.array([*left, *top]), "num_points": np.array([4, 4]),
        "box": np.array([[0, 0, 112, 224], [0, 0, 224, 112]]), "token_ids": np.array([[1] * 16, [2] * 16]),
    }  # fmt: skip
    for _ in range(20):
        drawn = draw_points(crop, rng)
        assert len(drawn) == 7
        for one in drawn:
            x, y = one["point"]
            assert 0 <= x < 1
            assert 0 <= y < 1
            names = [instance["token_ids"][0] for instance in one["instances"]]
            assert names == [1] * (x <= 0.5) + [2] * (y <= 0.5)
            for instance in one["instances"]:
                assert instance["box"] == ((0.0, 0.0, 0.5, 1.0) if instance["token_ids"][0] == 1 else (0, 0, 1, 0.5))


def test_a_crop_without_instances_has_points_of_none(rng: np.random.Generator) -> None:
    nothing = {name: np.zeros((0, n)) for name, n in (("points", 2), ("box", 4), ("token_ids", 16))}
    drawn = draw_points(nothing | {"num_points": np.zeros(0, np.int64)}, rng)
    assert [one["instances"] for one in drawn] == [[]] * 7
