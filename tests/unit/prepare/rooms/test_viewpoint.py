"""The camera stands in the room, outside the furniture, and sees some of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.prepare.rooms.layout import furnish
from fourm.prepare.rooms.rays import tracer
from fourm.prepare.rooms.room import Room, build_shell
from fourm.prepare.rooms.shapes import build
from fourm.prepare.rooms.view import trace_labels
from fourm.prepare.rooms.viewpoint import find_view

SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_camera_stands_in_the_room_and_in_no_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    room = furnish(rng)
    mesh = build(room.placed)
    camera = find_view(rng, room, mesh, tracer(mesh))

    x, y, z = camera.position
    assert 0 < x < room.width
    assert 0 < y < room.height
    assert 0 < z < room.depth
    inside = [b.x0 < x < b.x1 and b.y0 < y < b.y1 and b.z0 < z < b.z1 for b in (i.bounds() for i in room.objects)]
    assert not any(inside)
    assert 52 <= math.degrees(2 * math.atan(camera.slope)) <= 88
    np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_are_seen_and_nothing_stands_before_the_lens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    room = furnish(rng)
    mesh = build(room.placed)
    depth, _, piece = trace_labels(mesh, tracer(mesh), find_view(rng, room, mesh, tracer(mesh)), 16)

    assert (piece >= room.num_shell).mean() > 0.1
    assert np.median(depth) > 0.9


def test_the_same_draws_give_the_same_view() -> None:
    room = furnish(np.random.default_rng(1))
    mesh = build(room.placed)
    first, again, other = (
        find_view(np.random.default_rng(seed), room, mesh, tracer(mesh)).position for seed in (2, 2, 3)
    )
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_an_empty_room_has_a_view_too(rng: np.random.Generator) -> None:
    room = Room(4.0, 2.5, 3.0, (0.5, 0.7, 0.9), 0)
    build_shell(rng, room)
    mesh = build(room.placed)
    assert 0 < find_view(rng, room, mesh, tracer(mesh)).position[1] < 2.5
