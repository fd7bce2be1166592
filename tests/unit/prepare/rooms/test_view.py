from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.prepare.rooms.camera import look_at
from fourm.prepare.rooms.rays import tracer
from fourm.prepare.rooms.room import Room, build_shell
from fourm.prepare.rooms.shapes import build
from fourm.prepare.rooms.view import trace_labels


@pytest.fixture
def empty(rng: np.random.Generator) -> Room:
    room = Room(4.0, 2.6, 6.0, (0.5, 0.7, 0.9), 0)
    build_shell(rng, room)
    return room


def test_a_wall_faced_squarely_has_constant_depth_and_normal_z_one(empty: Room) -> None:
    mesh = build(empty.placed)
    camera = look_at(np.array([2.0, 1.3, 5.0]), np.array([2.0, 1.3, 0.0]), 0.0, math.radians(25))
    depth, normal, piece = trace_labels(mesh, tracer(mesh), camera, 16)
    # The z-depth of a plane across the view is the same everywhere, unlike the distance from the eye.
    np.testing.assert_allclose(depth, 5.0, atol=1e-12)
    np.testing.assert_allclose(normal, np.broadcast_to((0.0, 0.0, 1.0), (16, 16, 3)), atol=1e-12)
    assert {empty.placed[k].piece.kind for k in np.unique(piece)} == {"wall"}


def test_the_floor_faces_up_and_its_depth_follows_the_perspective(empty: Room) -> None:
    mesh = build(empty.placed)
    camera = look_at(np.array([2.0, 1.5, 5.0]), np.array([2.0, 1.5, 0.0]), 0.0, math.radians(90))
    depth, normal, piece = trace_labels(mesh, tracer(mesh), camera, 16)
    on_floor = piece == 0
    assert on_floor[-1].all()
    assert not on_floor[:8].any()
    np.testing.assert_allclose(normal[on_floor], np.broadcast_to((0.0, 1.0, 0.0), (on_floor.sum(), 3)), atol=1e-12)
    slope = -(1 - 2 * (np.arange(16) + 0.5) / 16)
    expected = np.broadcast_to((1.5 / np.where(slope > 0, slope, 1.0))[:, None], (16, 16))
    np.testing.assert_allclose(depth[on_floor], expected[on_floor])


def test_side_walls_face_the_middle(empty: Room) -> None:
    mesh = build(empty.placed)
    camera = look_at(np.array([2.0, 1.3, 5.0]), np.array([2.0, 1.3, 0.0]), 0.0, math.radians(80))
    normal = trace_labels(mesh, tracer(mesh), camera, 16)[1]
    np.testing.assert_allclose(normal[8, 0], (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(normal[8, -1], (-1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(normal[0, 8], (0, -1, 0), atol=1e-12)


def test_nothing_in_the_way_counts_as_far_away_and_void(empty: Room) -> None:
    mesh = build(empty.placed)
    camera = look_at(np.array([2.0, 50.0, 5.0]), np.array([2.0, 90.0, 4.0]), 0.0, 1.0)
    depth, normal, piece = trace_labels(mesh, tracer(mesh), camera, 4)
    assert (depth == 16).all()
    assert (piece == -1).all()
    assert (normal == (0, 0, 1)).all()


@pytest.mark.parametrize("index", range(4))
def test_normals_are_unit_vectors_towards_the_viewer(rendered, index: int) -> None:
    view = rendered(index)[1]
    np.testing.assert_allclose(np.linalg.norm(view.normal, axis=-1), 1)
    assert (view.normal[..., 2] > -0.8).all()


@pytest.mark.parametrize("index", range(4))
def test_depth_is_the_plane_its_normal_says(rendered, index: int) -> None:
    from fourm.prepare.rooms.layout import furnish
    from fourm.prepare.rooms.viewpoint import find_view
    from fourm.rng import generator

    room, view = rendered(index)
    rng = generator("rooms", 5, index)
    same = furnish(rng)
    mesh = build(same.placed)
    camera = find_view(rng, same, mesh, tracer(mesh))
    size = len(view.depth)
    cells = ((np.arange(size) + 0.5) / size * 2 - 1) * camera.slope
    points = np.stack(np.broadcast_arrays(cells[None, :], -cells[:, None], -1.0), axis=-1) * view.depth[..., None]
    floor = view.piece == 0
    if floor.any():
        # All floor points satisfy one plane equation with the floor's normal, at the camera's height.
        np.testing.assert_allclose((points * view.normal).sum(axis=-1)[floor], -camera.position[1], atol=1e-9)
    # On every surface, the step to the right neighbour lies in the plane.
    same_plane = (view.piece[:, 1:] == view.piece[:, :-1]) & (view.normal[:, 1:] == view.normal[:, :-1]).all(axis=-1)
    shell = same_plane & (view.piece[:, 1:] < room.num_shell)
    assert shell.sum() > 50
    step = (points[:, 1:] - points[:, :-1]) * view.normal[:, 1:]
    np.testing.assert_allclose(step.sum(axis=-1)[shell], 0, atol=1e-9)
