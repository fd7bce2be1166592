from __future__ import annotations

import numpy as np
import pytest

from fourm.prepare.rooms.classes import OBJECTS
from fourm.prepare.rooms.decor import RUG_HEIGHT
from fourm.prepare.rooms.layout import furnish
from fourm.prepare.rooms.room import Room
from fourm.rng import generator

ROOMS = range(40)


def _room(index: int) -> Room:
    return furnish(generator("layout", index))


@pytest.mark.parametrize("index", ROOMS)
def test_no_two_objects_interpenetrate(index: int) -> None:
    # A lamp may stand beside the screen of a desk, within the desk's extent.
    items = [item for item in _room(index).objects if not (item.piece.kind == "lamp" and 0.1 < item.y < 1.5)]
    for k, item in enumerate(items):
        for other in items[:k]:
            assert not item.bounds().grown(-1e-6).overlaps(other.bounds()), (item.piece.kind, other.piece.kind)


@pytest.mark.parametrize("index", ROOMS)
def test_objects_are_inside_and_furniture_stands_on_the_floor_or_the_rug(index: int) -> None:
    room = _room(index)
    for item in room.objects:
        box = item.bounds()
        assert min(box.x0, box.y0, box.z0) >= -1e-9
        assert (np.array([box.x1, box.y1, box.z1]) <= np.array([room.width, room.height, room.depth]) + 1e-9).all()
        if item.piece.kind not in ("lamp", "window", "picture"):
            assert item.y in (0.0, RUG_HEIGHT)


@pytest.mark.parametrize("index", ROOMS)
def test_large_furniture_stands_with_its_back_to_a_wall(index: int) -> None:
    room = _room(index)
    for item in room.objects:
        if item.piece.kind in ("bed", "sofa", "wardrobe", "shelf", "desk"):
            x, _, z = item.point(0.0, 0.0, -item.piece.depth / 2)
            assert min(x, z, room.width - x, room.depth - z) < 0.06


def test_doors_keep_their_way_free() -> None:
    doors = 0
    for index in ROOMS:
        room = _room(index)
        for door in (item for item in room.objects if item.piece.kind == "door"):
            doors += 1
            x, y, z = door.point(0.0, 1.0, 0.4)
            in_the_way = [
                item.piece.kind
                for item in room.objects
                if (box := item.bounds()).x0 < x < box.x1 and box.z0 < z < box.z1 and box.y0 < y < box.y1
            ]
            assert in_the_way == []
    assert doors > 20


def test_all_kinds_occur() -> None:
    found = {item.piece.kind for index in ROOMS for item in _room(index).objects}
    assert found == set(OBJECTS)
