from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.prepare.rooms.camera import look_at
from fourm.prepare.rooms.layout import furnish
from fourm.prepare.rooms.rays import tracer
from fourm.prepare.rooms.shapes import build
from fourm.prepare.rooms.viewpoint import find_view
from fourm.rng import generator


def test_a_level_camera_looks_along_its_target_with_up_above() -> None:
    camera = look_at(np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, -5.0]), 0.0, math.radians(90))
    np.testing.assert_allclose(camera.axes, [[1, 0, 0], [0, 1, 0], [0, 0, -1]], atol=1e-12)
    # The first of 2 x 2 pixel centres is left and up, half way to the 45 degree edges.
    np.testing.assert_allclose(camera.directions(2)[0], (-0.5, 0.5, -1), atol=1e-12)
    np.testing.assert_allclose(camera.directions(2)[1], (0.5, 0.5, -1), atol=1e-12)


def test_camera_space_has_z_towards_the_viewer() -> None:
    camera = look_at(np.zeros(3), np.array([3.0, 0.0, 0.0]), 0.0, 1.0)
    np.testing.assert_allclose(camera.to_camera(np.array([[-1.0, 0.0, 0.0]])), [[0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(camera.to_camera(np.array([[0.0, 0.0, 1.0]])), [[1, 0, 0]], atol=1e-12)


def test_the_samples_of_a_pixel_lie_together_around_its_centre() -> None:
    camera = look_at(np.zeros(3), np.array([1.0, -0.3, 2.0]), 0.1, 1.0)
    fine = camera.directions(4, 2).reshape(16, 4, 3)
    np.testing.assert_allclose(fine.mean(axis=1), camera.directions(4), atol=1e-12)
    assert np.ptp(fine, axis=1).max() < 2 * camera.slope / 4


@pytest.mark.parametrize("index", range(8))
def test_the_camera_is_inside_the_room_and_outside_of_all_objects(index: int) -> None:
    rng = generator("camera", index)
    room = furnish(rng)
    mesh = build(room.placed)
    x, y, z = find_view(rng, room, mesh, tracer(mesh)).position
    assert 0 < x < room.width
    assert 0 < y < room.height
    assert 0 < z < room.depth
    for item in room.objects:
        box = item.bounds().grown(0.1)
        assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1 and box.z0 < z < box.z1), item.piece.kind


def test_views_differ_in_height_direction_and_field_of_view() -> None:
    cameras = []
    for index in range(12):
        rng = generator("camera", index)
        room = furnish(rng)
        mesh = build(room.placed)
        cameras.append(find_view(rng, room, mesh, tracer(mesh)))
    assert np.ptp([camera.position[1] for camera in cameras]) > 0.5
    assert np.ptp([math.degrees(2 * math.atan(camera.slope)) for camera in cameras]) > 15
    assert np.ptp([camera.axes[2, 1] for camera in cameras]) > 0.2
