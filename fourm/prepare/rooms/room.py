"""The empty room: floor, walls and ceiling, and what is already taken of its space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fourm.prepare.rooms.palette import Rgb, choose, shade, tint
from fourm.prepare.rooms.shapes import Box, Piece, Placed

_THICK = 0.2
QUARTER = math.pi / 2


@dataclass
class Room:
    """A furnished room: x in [0, width], y (up) in [0, height], z in [0, depth]; metres.

    Args:
        sky: linear colour behind the windows.
        floor_pattern: 0 plain, 1 planks, 2 tiles.
        placed: floor (always first), ceiling, walls and baseboards, then the objects.
        num_shell: how many of `placed` are the room itself.
        reserved: what the objects fill or need free.
    """

    width: float
    height: float
    depth: float
    sky: Rgb
    floor_pattern: int
    placed: list[Placed] = field(default_factory=list)
    num_shell: int = 0
    reserved: list[Box] = field(default_factory=list)

    @property
    def objects(self) -> list[Placed]:
        """Everything but the room itself."""
        return self.placed[self.num_shell :]

    def free(self, box: Box) -> bool:
        """Whether nothing stands in `box` and nothing needs it free."""
        return not any(box.overlaps(other) for other in self.reserved)

    def put(self, item: Placed, keep_free: Box | None = None) -> bool:
        """Place an item if its extent (or the larger `keep_free` around it) is free and inside; say whether it was."""
        own = item.bounds()
        box = keep_free or own
        inside = own.x0 >= 0 and own.z0 >= 0 and own.x1 <= self.width and own.z1 <= self.depth and own.y1 <= self.height
        if not inside or not self.free(box):
            return False
        self.placed.append(item)
        self.reserved.append(box)
        return True

    def wall_length(self, wall: int) -> float:
        """Walls 0 to 3 are at z = 0, x = 0, z = depth, x = width."""
        return self.width if wall % 2 == 0 else self.depth

    def at_wall(self, piece: Piece, wall: int, along: float, gap: float, y: float = 0.0) -> Placed:
        """A piece with its back towards a wall, `gap` from it, its centre at `along`."""
        away = gap + piece.depth / 2
        x, z = [(along, away), (away, along), (along, self.depth - away), (self.width - away, along)][wall]
        return Placed(piece, x, y, z, wall * QUARTER)


_FLOORS = ("brown", "brown", "beige", "gray", "white", "black")
_WALLS = ("white", "white", "beige", "gray", "blue", "green", "yellow", "pink", "teal", "orange", "red", "purple")


def build_shell(rng: np.random.Generator, room: Room) -> None:
    """Add floor, ceiling and walls as slabs outside the room, and baseboards inside."""
    u = rng.uniform
    floor = shade(choose(rng, _FLOORS)[1], u(0.8, 1.1))
    named = choose(rng, _WALLS)[1]
    # Walls are pale: a named colour mixed with white.
    mix = u(0.0, 0.35) if u() < 0.7 else u(0.35, 0.8)
    pale = (0.8 + (named[0] - 0.8) * mix, 0.8 + (named[1] - 0.8) * mix, 0.78 + (named[2] - 0.78) * mix)
    accent = int(rng.integers(4)) if u() < 0.3 else -1
    trim = tint(rng, "white") if u() < 0.6 else shade(floor, 0.7)
    w, h, d, t = room.width, room.height, room.depth, _THICK
    _add_slab(room, "floor", (w / 2, -t, d / 2), (w + 2 * t, t, d + 2 * t), floor)
    _add_slab(room, "ceiling", (w / 2, h, d / 2), (w + 2 * t, t, d + 2 * t), tint(rng, "white"))
    for wall, (x, z) in enumerate([(w / 2, -t / 2), (-t / 2, d / 2), (w / 2, d + t / 2), (w + t / 2, d / 2)]):
        size = (w + 2 * t, h, t) if wall % 2 == 0 else (t, h, d)
        _add_slab(room, "wall", (x, 0.0, z), size, shade(named, 1.1) if wall == accent else pale)
        board = Piece("wall", "", room.wall_length(wall), 0.08, 0.012)
        board.box((0, 0, 0), (board.width, board.height, board.depth), trim)
        room.placed.append(room.at_wall(board, wall, board.width / 2, 0.0))
    room.num_shell = len(room.placed)


def _add_slab(
    room: Room, kind: str, at: tuple[float, float, float], size: tuple[float, float, float], colour: Rgb
) -> None:
    piece = Piece(kind, "", *size)
    piece.box((0, 0, 0), size, colour)
    room.placed.append(Placed(piece, *at, 0.0))
