"""Furnishing a room, so that nothing interpenetrates and doors, windows and pictures stay visible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from fourm.prepare.rooms import decor, furniture
from fourm.prepare.rooms.palette import shade, tint
from fourm.prepare.rooms.room import QUARTER, Room, build_shell
from fourm.prepare.rooms.shapes import Piece, Placed


def furnish(rng: np.random.Generator) -> Room:
    """A room of random size, with the furniture of a bedroom, living room, study or dining room."""
    u = rng.uniform
    sky = shade(tint(rng, "blue"), 2.2) if u() < 0.3 else (u(0.55, 0.9), u(0.7, 0.95), u(0.85, 1.0))
    room = Room(u(3.0, 5.4), u(2.35, 3.0), u(3.0, 5.4), sky, int(rng.integers(3)))
    build_shell(rng, room)
    _openings(rng, room)
    plans = (
        _bedroom,
        _bedroom,
        _bedroom,
        _living_room,
        _living_room,
        _study,
        _study,
        _study,
        _dining_room,
        _dining_room,
    )
    plans[rng.integers(len(plans))](rng, room)
    _add_rug(rng, room)
    if u() < 0.9:
        _stand(rng, room, decor.plant)
    if u() < 0.5:
        _stand(rng, room, decor.plant)
    if u() < 0.6:
        _stand(rng, room, lambda rng: decor.lamp(rng, "floor"))
    if u() < 0.35:
        _hang_lamp(rng, room)
    _small_lamps(rng, room)
    for _ in range(rng.integers(1, 4)):
        _hang(rng, room, decor.picture(rng), low=1.05, high=2.0, clear=0.35)
    return room


def _openings(rng: np.random.Generator, room: Room) -> None:
    """Windows and doors."""
    walls = [int(wall) for wall in rng.permutation(4)]
    if rng.uniform() < 0.85:
        _hang(rng, room, decor.door(rng), low=0.0, high=0.0, clear=0.7, walls=walls[:2])
    for wall in walls[2 : 2 + rng.integers(1, 3)]:
        _hang(rng, room, decor.window(rng, room.sky), low=0.75, high=1.0, clear=0.3, walls=[wall])


def _hang(
    rng: np.random.Generator,
    room: Room,
    piece: Piece,
    low: float,
    high: float,
    clear: float,
    walls: Sequence[int] = (0, 1, 2, 3),
) -> bool:
    """Hang a piece on a wall, its bottom between `low` and `high`, with `clear` metres in front kept free."""
    for _ in range(8):
        wall = walls[int(rng.integers(len(walls)))]
        length, half = room.wall_length(wall), piece.width / 2
        y = rng.uniform(low, min(high, room.height - piece.height - 0.1)) if high > low else low
        if length < piece.width + 0.2 or y + piece.height > room.height - 0.05:
            continue
        item = room.at_wall(piece, wall, rng.uniform(half + 0.1, length - half - 0.1), 0.0, y)
        around = Piece(piece.kind, "", piece.width + 0.1, piece.height, piece.depth + clear)
        if room.put(item, room.at_wall(around, wall, item.x if wall % 2 == 0 else item.z, 0.0, y).bounds()):
            return True
    return False


def _against_wall(rng: np.random.Generator, room: Room, piece: Piece, tries: int = 14) -> Placed | None:
    """Put a piece with its back to some wall."""
    for _ in range(tries):
        wall, half = int(rng.integers(4)), piece.width / 2
        length = room.wall_length(wall)
        if length < piece.width + 0.1:
            continue
        # Half of the pieces stand in a corner of the room, as furniture does.
        along = rng.uniform(half + 0.04, length - half - 0.04)
        if rng.uniform() < 0.4:
            along = half + 0.05 if rng.uniform() < 0.5 else length - half - 0.05
        item = room.at_wall(piece, wall, along, rng.uniform(0.02, 0.05))
        if room.put(item):
            return item
    return None


def _in_front(
    rng: np.random.Generator, room: Room, anchor: Placed, piece: Piece, gap: float, facing: bool
) -> Placed | None:
    """Put a piece in front of another, turned towards it or in the same direction."""
    shift = rng.uniform(-0.15, 0.15) * anchor.piece.width
    away = anchor.piece.depth / 2 + gap + piece.depth / 2
    x, _, z = anchor.point(shift, 0, away)
    item = Placed(piece, x, 0.0, z, anchor.yaw + (math.pi if facing else 0.0))
    return item if room.put(item) else None


def _bedroom(rng: np.random.Generator, room: Room) -> None:
    u = rng.uniform
    _against_wall(rng, room, furniture.bed(rng), 30)
    if u() < 0.85:
        _against_wall(rng, room, furniture.wardrobe(rng))
    if u() < 0.45:
        _desk_and_chair(rng, room)
    if u() < 0.45:
        _against_wall(rng, room, furniture.shelf(rng))
    if u() < 0.35:
        _against_wall(rng, room, furniture.chair(rng))


def _living_room(rng: np.random.Generator, room: Room) -> None:
    u = rng.uniform
    sofa = _against_wall(rng, room, furniture.sofa(rng), 30)
    if sofa is not None and u() < 0.85:
        _in_front(rng, room, sofa, furniture.table(rng, low=True), u(0.3, 0.6), facing=False)
    for _ in range(rng.integers(1, 3)):
        _against_wall(rng, room, furniture.shelf(rng))
    if u() < 0.4:
        _against_wall(rng, room, furniture.sofa(rng))
    if u() < 0.3:
        _against_wall(rng, room, furniture.wardrobe(rng))
    if u() < 0.4:
        _against_wall(rng, room, furniture.chair(rng))


def _study(rng: np.random.Generator, room: Room) -> None:
    u = rng.uniform
    _desk_and_chair(rng, room)
    for _ in range(rng.integers(1, 3)):
        _against_wall(rng, room, furniture.shelf(rng))
    if u() < 0.4:
        _against_wall(rng, room, furniture.sofa(rng))
    if u() < 0.45:
        _against_wall(rng, room, furniture.wardrobe(rng))
    if u() < 0.35:
        _desk_and_chair(rng, room)
    if u() < 0.3:
        _against_wall(rng, room, furniture.bed(rng))


def _dining_room(rng: np.random.Generator, room: Room) -> None:
    u = rng.uniform
    table = furniture.table(rng, low=False)
    yaw = QUARTER * rng.integers(2)
    for _ in range(10):
        item = Placed(table, u(1.1, room.width - 1.1), 0.0, u(1.1, room.depth - 1.1), yaw)
        if room.put(item):
            _chairs_around(rng, room, item)
            break
    if u() < 0.6:
        _against_wall(rng, room, furniture.wardrobe(rng))
    if u() < 0.5:
        _against_wall(rng, room, furniture.shelf(rng))
    if u() < 0.25:
        _against_wall(rng, room, furniture.sofa(rng))


def _chairs_around(rng: np.random.Generator, room: Room, table: Placed) -> None:
    """Two to six chairs of one set, turned towards the table."""
    u = rng.uniform
    seed = rng.integers(2**32)
    width, depth = table.piece.width, table.piece.depth
    sides = [(0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0)]
    if width > 1.45:
        sides = [(s * 0.5, t) for s in (-1, 1) for t in (-1.0, 1.0)] + sides[2:]
    for x, z in [sides[k] for k in rng.permutation(len(sides))[: rng.integers(2, 6)]]:
        chair = furniture.chair(np.random.Generator(np.random.Philox(key=int(seed))))
        gap = u(0.03, 0.2) + chair.depth / 2 + 0.04
        along_x = abs(x) == 1.0
        local = (x * (width / 2 + gap), 0.0, 0.0) if along_x else (x * width / 2, 0.0, z * (depth / 2 + gap))
        cx, _, cz = table.point(*local)
        facing = math.atan2(-x, 0.0) if along_x else math.atan2(0.0, -z)
        room.put(Placed(chair, cx, 0.0, cz, table.yaw + facing + u(-0.12, 0.12)))


def _desk_and_chair(rng: np.random.Generator, room: Room) -> None:
    desk = _against_wall(rng, room, furniture.desk(rng))
    if desk is not None and rng.uniform() < 0.85:
        _in_front(rng, room, desk, furniture.chair(rng), rng.uniform(0.03, 0.3), facing=True)


def _stand(rng: np.random.Generator, room: Room, make: Callable[[np.random.Generator], Piece]) -> None:
    """Put something round on the floor: in a corner, or beside furniture at a wall."""
    piece = make(rng)
    for _ in range(10):
        edge = piece.width / 2 + rng.uniform(0.03, 0.12)
        x, z = (edge, room.width - edge)[rng.integers(2)], (edge, room.depth - edge)[rng.integers(2)]
        if rng.uniform() < 0.5:
            if rng.uniform() < 0.5:
                x = rng.uniform(edge, room.width - edge)
            else:
                z = rng.uniform(edge, room.depth - edge)
        if room.put(Placed(piece, x, 0.0, z, rng.uniform(0, 0.01))):
            return


def _hang_lamp(rng: np.random.Generator, room: Room) -> None:
    """A lamp below the ceiling, above a table if there is one."""
    piece = decor.lamp(rng, "hanging")
    tables = [item for item in room.objects if item.piece.kind == "table"]
    x, z = room.width * rng.uniform(0.3, 0.7), room.depth * rng.uniform(0.3, 0.7)
    if tables:
        x, z = tables[0].x, tables[0].z
    room.put(Placed(piece, x, room.height - piece.height, z, 0.0))


def _small_lamps(rng: np.random.Generator, room: Room) -> None:
    """Lamps on desks, low shelves and tables."""
    for item in list(room.objects):
        if item.piece.spot is None or rng.uniform() > 0.4:
            continue
        piece = decor.lamp(rng, "small")
        x, y, z = item.point(*item.piece.spot)
        lamp = Placed(piece, x, y, z, 0.0)
        # It stands on the furniture, so only the others must leave it room.
        own = item.bounds()
        others = [box for box in room.reserved if (box.x0, box.z0) != (own.x0, own.z0)]
        box = lamp.bounds()
        inside = min(box.x0, box.z0) > 0 and box.x1 < room.width and box.y1 < room.height and box.z1 < room.depth
        if inside and not any(box.overlaps(other) for other in others):
            room.placed.append(lamp)
            room.reserved.append(box)


def _add_rug(rng: np.random.Generator, room: Room) -> None:
    """Lay a rug in front of the main piece or in the middle; what stands on it is lifted by its height."""
    if rng.uniform() > 0.72:
        return
    piece = decor.rug(rng)
    main = [item for item in room.objects if item.piece.kind in ("bed", "sofa", "table")]
    yaw = QUARTER * float(rng.integers(2))
    x, z = float(room.width * rng.uniform(0.4, 0.6)), float(room.depth * rng.uniform(0.4, 0.6))
    if main and rng.uniform() < 0.7:
        yaw = main[0].yaw
        out = 0.0 if main[0].piece.kind == "table" else rng.uniform(0.1, 0.9) + main[0].piece.depth / 2
        x, _, z = main[0].point(rng.uniform(-0.2, 0.2), 0.0, out)
    half = Placed(piece, 0, 0, 0, yaw).bounds()
    if half.x1 * 2 > room.width - 0.2 or half.z1 * 2 > room.depth - 0.2:
        return
    x = min(max(x, half.x1 + 0.08), room.width - half.x1 - 0.08)
    z = min(max(z, half.z1 + 0.08), room.depth - half.z1 - 0.08)
    laid = Placed(piece, x, 0.0, z, yaw)
    area = laid.bounds()
    for k in range(room.num_shell, len(room.placed)):
        item = room.placed[k]
        if item.y == 0.0 and item.piece.kind != "door" and item.bounds().overlaps(area):
            room.placed[k] = Placed(item.piece, item.x, decor.RUG_HEIGHT, item.z, item.yaw)
    room.placed.append(laid)
    room.reserved.append(area)
