from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.prepare.rooms.camera import look_at
from fourm.prepare.rooms.light import Light, direct, openness, place_light
from fourm.prepare.rooms.rays import tracer
from fourm.prepare.rooms.room import Room, build_shell
from fourm.prepare.rooms.shading import shade_view
from fourm.prepare.rooms.shapes import Piece, Placed, build
from fourm.prepare.rooms.smooth import Smoother


def _lamp(power: float) -> Light:
    corner = np.array([2.0, 2.4, 2.0], np.float32)
    edge = np.array([[0.01, 0, 0], [0, 0, 0.01]], np.float32)
    return Light(corner, edge[0], edge[1], None, np.full(3, power, np.float32), np.zeros(3, np.float32))


@pytest.fixture
def room(rng: np.random.Generator) -> Room:
    room = Room(4.0, 2.5, 4.0, (0.5, 0.7, 0.9), 0)
    build_shell(rng, room)
    roof = Piece("table", "red", 1.0, 0.1, 1.0)
    roof.box((0, 0, 0), (1.0, 0.1, 1.0), (0.5, 0.5, 0.5))
    room.placed.append(Placed(roof, 3.0, 1.0, 2.0, 0.0))
    return room


def _floor_points(*places: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    # Four samples make one pixel.
    points = np.array([[x, 1e-3, z] for x, z in places for _ in range(4)], np.float32).T
    return points, np.broadcast_to(np.array([[0], [1], [0]], np.float32), points.shape)


def test_the_table_throws_a_shadow_and_the_open_floor_is_lit(room: Room, rng: np.random.Generator) -> None:
    points, normals = _floor_points((2.0, 2.0), (3.2, 2.0))
    strength = direct(rng, tracer(build(room.placed)), _lamp(1.0), points, normals)
    # Straight below the lamp: cosine 1 at 2.4 metres.
    np.testing.assert_allclose(strength[:4], 1 / (2.4**2 + 0.7), rtol=1e-2)
    assert (strength[4:] == 0).all()


def test_below_the_table_less_of_the_sky_is_open(room: Room, rng: np.random.Generator) -> None:
    points, normals = _floor_points(*[(1.5, 2.0)] * 100, *[(3.0, 2.0)] * 100)
    free = openness(rng, tracer(build(room.placed)), points, normals)
    assert free[:400].mean() == 1
    assert 0.2 < free[400:].mean() < 0.9


def test_a_corner_is_darker_than_the_middle_of_the_floor(room: Room, rng: np.random.Generator) -> None:
    points, normals = _floor_points(*[(1.7, 2.0)] * 100, *[(0.02, 0.02)] * 100)
    free = openness(rng, tracer(build(room.placed)), points, normals)
    assert free[400:].mean() < 0.5 * free[:400].mean()


def test_smoothing_averages_within_a_surface_and_never_across(room: Room, rng: np.random.Generator) -> None:
    mesh = build(room.placed)
    camera = look_at(np.array([2.0, 1.2, 3.8]), np.array([2.0, 0.4, 0.0]), 0.0, math.radians(70))
    triangle = tracer(mesh).first(camera.position[None], camera.directions(16, 2))
    smooth = Smoother(mesh, triangle, 2)
    floor = mesh.piece[triangle] == 0
    np.testing.assert_allclose(smooth(floor.astype(np.float32)), floor, atol=1e-6)
    noise = rng.random(len(triangle)).astype(np.float32)
    assert smooth(noise)[floor].std() < 0.4 * noise[floor].std()


def test_a_picture_is_neither_black_nor_white(room: Room, rng: np.random.Generator) -> None:
    mesh = build(room.placed)
    camera = look_at(np.array([2.0, 1.2, 3.8]), np.array([2.0, 0.4, 0.0]), 0.0, math.radians(70))
    rgb = shade_view(rng, room, mesh, tracer(mesh), camera, place_light(rng, room), 16)
    assert rgb.shape == (16, 16, 3)
    assert rgb.dtype == np.uint8
    assert 60 < rgb.mean() < 200
    assert rgb.std() > 10


def test_light_comes_from_a_window_or_from_below_the_ceiling(room: Room) -> None:
    pane = Piece("window", "white", 1.0, 1.0, 0.06)
    pane.sheet((0, 0, 0), (1, 1), (1, 1, 1))
    room.placed.append(room.at_wall(pane, 1, 2.0, 0.0, 1.0))
    lights = [place_light(np.random.default_rng(seed), room) for seed in range(20)]
    windows = [light for light in lights if light.normal is not None]
    assert 0 < len(windows) < 20
    np.testing.assert_allclose(windows[0].normal, (1, 0, 0), atol=1e-6)
    assert all(0 < light.corner[1] < room.height for light in lights)
