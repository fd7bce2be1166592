"""Furniture that stands on the floor, each kind built from parts in varied sizes, styles and colours.

Every builder takes a generator and returns a `Piece` whose back is at -z.
"""

from __future__ import annotations

import numpy as np

from fourm.prepare.rooms.palette import COLOURS, DARK, FABRICS, METAL, WOODS, Rgb, choose, shade, tint
from fourm.prepare.rooms.shapes import Piece


def bed(rng: np.random.Generator) -> Piece:
    """Frame with headboard, mattress, blanket, one or two pillows."""
    u = rng.uniform
    width, depth, frame = u(0.95, 1.8), u(1.95, 2.15), u(0.26, 0.38)
    head = u(0.86, 1.25)
    colour, cloth = choose(rng, FABRICS)
    wood = choose(rng, WOODS)[1]
    sheet = tint(rng, "white")
    piece = Piece("bed", colour, width, head, depth)
    z = -depth / 2
    piece.box((0, 0, z + 0.03), (width, head, 0.06), wood if u() < 0.7 else shade(cloth, 0.8))
    piece.box((0, 0.1, 0.03), (width * 0.98, frame - 0.1, depth - 0.07), wood)
    piece.legs(width * 0.94, depth - 0.04, 0.1, 0.07, shade(wood, 0.6))
    mattress = u(0.16, 0.24)
    piece.box((0, frame, 0.03), (width * 0.95, mattress, depth - 0.12), sheet)
    top = frame + mattress
    cover = depth * u(0.55, 0.72)
    piece.box((0, frame - 0.03, depth / 2 - cover / 2 - 0.001), (width * 0.99, mattress + 0.07, cover), cloth)
    fold = depth / 2 - cover
    piece.box((0, frame + 0.02, fold - 0.07), (width * 0.985, mattress + 0.035, 0.16), shade(cloth, 1.35))
    pillows = 2 if width > 1.3 else 1
    pillow = sheet if u() < 0.6 else choose(rng, FABRICS)[1]
    for k in range(pillows):
        x = (k - (pillows - 1) / 2) * width * 0.46
        piece.add("cushion", (x, top - 0.02, z + 0.31), (width * 0.84 / pillows, 0.18, 0.42), pillow, tilt=-0.25)
    return piece


def sofa(rng: np.random.Generator) -> Piece:
    """Base, back, two arms, seat and back cushions, short legs."""
    u = rng.uniform
    width, height, depth = u(1.45, 2.4), u(0.75, 0.98), u(0.82, 1.02)
    colour, cloth = choose(rng, FABRICS)
    piece = Piece("sofa", colour, width, height, depth)
    arm, seat, foot = u(0.14, 0.24), u(0.38, 0.45), u(0.05, 0.12)
    z = -depth / 2
    piece.legs(width * 0.96, depth * 0.92, foot, 0.06, DARK if u() < 0.5 else choose(rng, WOODS)[1])
    piece.box((0, foot, 0.01), (width - 0.02, seat - 0.12 - foot, depth - 0.04), shade(cloth, 0.8))
    piece.box((0, foot, z + 0.1), (width - 0.01, height - foot - 0.02, 0.2), shade(cloth, 0.9))
    for side in (-1, 1):
        x = side * (width - arm) / 2
        piece.box((x, foot, 0.005), (arm, u(0.56, 0.6) - foot, depth - 0.012), shade(cloth, 0.92))
        piece.add("cushion", (x, 0.53, 0.005), (arm, 0.1, depth - 0.01), cloth)
    count = 3 if width > 2 else 2
    inner = width - 2 * arm
    for k in range(count):
        x = (k - (count - 1) / 2) * inner / count
        size = inner / count * 0.98
        piece.add("cushion", (x, seat - 0.15, 0.1), (size, 0.18, depth - 0.24), shade(cloth, 1.08))
        piece.add("cushion", (x, seat, z + 0.26), (size, height - seat - 0.02, 0.2), cloth, tilt=-0.14)
    if u() < 0.6:
        accent = choose(rng, FABRICS)[1]
        for side in (-1, 1)[: rng.integers(1, 3)]:
            at = (side * inner * 0.36, seat + 0.02, z + 0.42)
            piece.add("cushion", at, (0.36, min(0.34, height - seat - 0.06), 0.14), accent, tilt=-0.3)
    return piece


def table(rng: np.random.Generator, low: bool) -> Piece:
    """A dining table, or a low one: four legs, a pedestal under a round top, or two side panels."""
    u = rng.uniform
    colour, wood = choose(rng, WOODS)
    style = rng.integers(4)
    if style == 0:
        width = depth = u(0.7, 0.95) if low else u(0.95, 1.3)
    else:
        width, depth = (u(0.85, 1.25), u(0.5, 0.7)) if low else (u(1.2, 1.9), u(0.75, 0.95))
    height = u(0.38, 0.5) if low else u(0.71, 0.78)
    piece = Piece("table", colour, width, height, depth, spot=(u(-0.2, 0.2) * width, height, 0.0))
    thick = u(0.035, 0.07)
    base = height - thick
    if style == 0:
        piece.add("cylinder", (0, base, 0), (width, thick, depth), wood)
        piece.add("cylinder", (0, 0.04, 0), (0.12, base - 0.04, 0.12), shade(wood, 0.8))
        piece.add("cylinder", (0, 0, 0), (width * 0.5, 0.04, depth * 0.5), shade(wood, 0.8))
        return piece
    piece.box((0, base, 0), (width, thick, depth), wood)
    if style == 1:
        for side in (-1, 1):
            piece.box((side * (width / 2 - 0.1), 0, 0), (0.06, base, depth * 0.86), shade(wood, 0.85))
        piece.box((0, 0.12, 0), (width - 0.26, 0.07, 0.06), shade(wood, 0.7))
    else:
        leg = METAL if u() < 0.3 else shade(wood, 0.85)
        piece.legs(width * 0.95, depth * 0.93, base, u(0.055, 0.1), leg)
        piece.box((0, base - 0.09, 0), (width * 0.86, 0.09, depth * 0.82), shade(wood, 0.8))
    return piece


def chair(rng: np.random.Generator) -> Piece:
    """Four legs, seat, a back of posts with a panel, slats or bars; sometimes a cushion."""
    u = rng.uniform
    width, depth, seat, height = u(0.42, 0.52), u(0.44, 0.54), u(0.43, 0.48), u(0.85, 1.08)
    colour, wood = choose(rng, (*WOODS, *FABRICS)) if u() < 0.6 else choose(rng, FABRICS)
    frame = wood if u() < 0.6 else choose(rng, WOODS)[1]
    piece = Piece("chair", colour, width, height, depth)
    leg = u(0.045, 0.06)
    piece.legs(width, depth, seat - 0.03, leg, shade(frame, 0.9))
    piece.box((0, seat - 0.05, 0), (width - 0.006, 0.05, depth - 0.006), wood)
    if u() < 0.5:
        piece.add("cushion", (0, seat - 0.01, 0.02), (width * 0.9, 0.07, depth * 0.85), wood)
    z = -(depth - leg) / 2
    for side in (-1, 1):
        piece.box((side * (width - leg) / 2, seat, z), (leg, height - seat - 0.004, leg), frame)
    low, inner = seat + u(0.08, 0.16), width - 2 * leg
    style = rng.integers(3)
    if style == 0:
        piece.box((0, low, z), (inner, height - low - 0.01, 0.035), wood)
    elif style == 1:
        for k in range(3):
            piece.box((0, low + k * (height - low) / 3, z), (inner, (height - low) * 0.22, 0.03), wood)
    else:
        piece.box((0, height - 0.12, z), (inner, 0.1, 0.04), wood)
        for k in range(3):
            piece.box(((k - 1) * inner / 3.2, seat, z), (0.045, height - seat - 0.12, 0.03), wood)
    return piece


def desk(rng: np.random.Generator) -> Piece:
    """Top, drawers on one side, a panel on the other, a screen with keyboard or a stack of books."""
    u = rng.uniform
    width, height, depth = u(1.1, 1.6), u(0.72, 0.77), u(0.58, 0.75)
    colour, wood = choose(rng, WOODS)
    side = 1 if u() < 0.5 else -1
    piece = Piece("desk", colour, width, height, depth)
    piece.box((0, height - 0.04, 0), (width, 0.04, depth), wood)
    block = u(0.34, 0.44)
    x = side * (width - block) / 2
    piece.box((x, 0, 0), (block - 0.02, height - 0.04, depth - 0.05), shade(wood, 0.85))
    drawers = rng.integers(3, 5)
    step = (height - 0.1) / drawers
    front = choose(rng, (*WOODS, *FABRICS))[1] if u() < 0.4 else shade(wood, 1.15)
    for k in range(drawers):
        y = 0.04 + k * step
        piece.sheet((x, y, depth / 2 - 0.021), (block - 0.06, step - 0.03), front)
        piece.sheet((x, y + step * 0.4, depth / 2 - 0.017), (0.13, 0.035), METAL)
    piece.box((-side * (width / 2 - 0.03), 0, 0), (0.045, height - 0.04, depth - 0.06), shade(wood, 0.85))
    piece.box(
        (-side * block / 2, height - 0.34, -depth / 2 + 0.04), (width - block - 0.04, 0.3, 0.025), shade(wood, 0.75)
    )
    _desk_things(rng, piece, -side * block / 2, x)
    return piece


def _desk_things(rng: np.random.Generator, piece: Piece, place: float, other: float) -> None:
    u = rng.uniform
    top, z = piece.height, -piece.depth / 2
    if u() < 0.75:
        wide = u(0.48, 0.66)
        picture = tint(rng, "blue") if u() < 0.5 else DARK
        piece.box((place, top, z + 0.16), (0.24, 0.015, 0.18), DARK)
        piece.box((place, top + 0.015, z + 0.13), (0.06, 0.14, 0.03), DARK)
        piece.box((place, top + 0.11, z + 0.16), (wide, wide * 0.6, 0.03), shade(DARK, 1.5))
        piece.sheet((place, top + 0.13, z + 0.179), (wide * 0.92, wide * 0.53), picture, glow=u(0.0, 0.8))
        piece.box((place, top, z + 0.42), (0.4, 0.02, 0.13), shade(METAL, u(0.2, 2)))
        piece.height = top + 0.11 + wide * 0.6
    else:
        for k in range(3):
            cover = choose(rng, FABRICS)[1]
            piece.box((place, top + 0.04 * k, z + 0.3), (u(0.2, 0.3), 0.038, u(0.2, 0.3)), cover)
        piece.height = top + 0.12
    piece.spot = (other, top, z + 0.22)


def wardrobe(rng: np.random.Generator) -> Piece:
    """Body with plinth, cornice, two to four doors with gaps and handles, sometimes a mirror or drawers."""
    u = rng.uniform
    width, height, depth = u(0.9, 2.0), u(1.75, 2.2), u(0.55, 0.65)
    colour, wood = choose(rng, (*WOODS, "green", "teal", "blue", "gray"))
    piece = Piece("wardrobe", colour, width, height, depth)
    dark = shade(wood, 0.55)
    piece.box((0, 0, -0.02), (width - 0.04, 0.09, depth - 0.06), dark)
    piece.box((0, 0.09, -0.015), (width - 0.02, height - 0.15, depth - 0.05), shade(wood, 0.3))
    piece.box((0, height - 0.06, 0), (width, 0.06, depth), shade(wood, 0.85))
    for side in (-1, 1):
        piece.box((side * (width / 2 - 0.02), 0.0, -0.01), (0.035, height - 0.06, depth - 0.03), shade(wood, 0.9))
    doors = 2 if width < 1.25 else rng.integers(3, 5)
    drawers = u() < 0.35
    low = 0.5 if drawers else 0.11
    step = (width - 0.07) / doors
    mirror = rng.integers(doors) if u() < 0.25 else -1
    for k in range(doors):
        x = (k - (doors - 1) / 2) * step
        face = (0.45, 0.5, 0.54) if k == mirror else wood
        piece.sheet((x, low, depth / 2 - 0.033), (step - 0.03, height - 0.09 - low), face)
        hinge = 1 if k % 2 == 0 else -1
        piece.sheet((x + hinge * (step / 2 - 0.08), height * 0.45, depth / 2 - 0.028), (0.035, 0.22), METAL)
        if drawers:
            for j in range(2):
                piece.sheet((x, 0.11 + j * 0.19, depth / 2 - 0.033), (step - 0.03, 0.17), shade(wood, 0.9))
                piece.sheet((x, 0.18 + j * 0.19, depth / 2 - 0.028), (0.14, 0.035), METAL)
    return piece


def shelf(rng: np.random.Generator) -> Piece:
    """Sides, back and boards, filled with books of many colours and boxes."""
    u = rng.uniform
    width, height, depth = u(0.7, 1.5), u(1.1, 2.1), u(0.28, 0.38)
    colour, wood = choose(rng, WOODS)
    piece = Piece("shelf", colour, width, height, depth)
    board = u(0.03, 0.045)
    piece.box((0, 0.02, -depth / 2 + 0.01), (width - 0.02, height - 0.04, 0.015), shade(wood, 0.5))
    for side in (-1, 1):
        piece.box((side * (width - board) / 2, 0, 0), (board, height, depth), wood)
    rows = max(3, round(height / u(0.34, 0.42)))
    step = (height - board) / rows
    for k in range(rows + 1):
        piece.box((0, k * step, 0.004), (width - 2 * board + 0.004, board, depth - 0.014), wood)
    for k in range(rows):
        _books(rng, piece, k * step + board, step - board, (width - 2 * board) / 2 - 0.01, depth)
    if height < 1.4:
        piece.spot = (u(-0.25, 0.25) * width, height, 0.0)
    return piece


def _books(rng: np.random.Generator, piece: Piece, y: float, room: float, half: float, depth: float) -> None:
    """A row of books, sometimes ending in a gap or a basket."""
    u = rng.uniform
    x, end = -half, half - (u(0.1, 0.8) * half if u() < 0.5 else 0.0)
    deep = depth * u(0.66, 0.8)
    shades: list[Rgb] = [tint(rng, name) for name in rng.choice(list(COLOURS), 3)]
    while x < end - 0.05:
        wide = min(u(0.06, 0.18), end - x)
        tall = room * u(0.6, 0.92)
        colour = shades[rng.integers(3)]
        piece.box((x + wide / 2, y, -depth / 2 + 0.03 + deep / 2), (wide - 0.008, tall, deep), colour)
        x += wide
    if half - x > 0.26:
        piece.box(((x + half) / 2, y, 0.0), (0.24, room * 0.55, depth * 0.7), choose(rng, FABRICS)[1])
