from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.prepare.rooms.room import Room, build_shell
from fourm.prepare.rooms.shapes import Piece, Placed


def _room() -> Room:
    return Room(4.0, 2.5, 3.0, (0.5, 0.7, 0.9), 0)


@pytest.mark.parametrize(
    ("wall", "back", "front"),
    [(0, (1, 0), (0, 1)), (1, (0, 1), (1, 0)), (2, (1, 3), (0, -1)), (3, (4, 1), (-1, 0))],
)
def test_a_piece_at_a_wall_has_its_back_there_and_faces_inwards(
    wall: int, back: tuple[int, int], front: tuple[int, int]
) -> None:
    item = _room().at_wall(Piece("bed", "red", 1.0, 0.5, 0.8), wall, 1.0, 0.0)
    x, _, z = item.point(0.0, 0.0, -0.4)
    np.testing.assert_allclose((x, z), back, atol=1e-12)
    np.testing.assert_allclose((math.sin(item.yaw), math.cos(item.yaw)), front, atol=1e-12)


def test_taken_space_is_refused_and_so_is_space_outside() -> None:
    room, piece = _room(), Piece("bed", "red", 1.0, 0.5, 1.0)
    assert room.put(Placed(piece, 1.0, 0.0, 1.0, 0.0))
    assert not room.put(Placed(piece, 1.5, 0.0, 1.5, 0.0))
    assert not room.put(Placed(piece, 3.8, 0.0, 1.0, 0.0))
    assert room.put(Placed(piece, 2.5, 0.0, 1.0, 0.0))
    assert len(room.placed) == 2


def test_the_floor_is_the_first_piece_of_the_shell(rng: np.random.Generator) -> None:
    room = _room()
    build_shell(rng, room)
    assert room.placed[0].piece.kind == "floor"
    assert room.placed[0].bounds().y1 == 0
    assert {item.piece.kind for item in room.placed} == {"floor", "ceiling", "wall"}
    assert room.objects == []
