"""A few rendered rooms, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("trimesh")
pytest.importorskip("cv2")

from fourm.prepare.rooms.encode import view_of_room
from fourm.prepare.rooms.room import Room
from fourm.prepare.rooms.view import View

SIZE = 32


@pytest.fixture(scope="session")
def rendered() -> Callable[[int], tuple[Room, View]]:
    """Room number i of seed 5 and its view, 32 x 32; each is rendered once."""
    cache: dict[int, tuple[Room, View]] = {}

    def get(index: int) -> tuple[Room, View]:
        if index not in cache:
            cache[index] = view_of_room(5, index, SIZE)
        return cache[index]

    return get
