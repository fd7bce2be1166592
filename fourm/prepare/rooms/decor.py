"""Lamps, plants, rugs, and what hangs on walls, each kind built from parts in varied sizes, styles and colours.

Pieces that hang on a wall have their back at -z; their height counts from their own bottom edge.
"""

from __future__ import annotations

import math

import numpy as np

from fourm.prepare.rooms.palette import COLOURS, DARK, FABRICS, METAL, WOODS, Rgb, choose, shade, tint
from fourm.prepare.rooms.shapes import Piece

RUG_HEIGHT = 0.006
WALL_DEPTH = 0.06
"""How far windows, doors and pictures come out of the wall, at most; metres."""


def lamp(rng: np.random.Generator, style: str) -> Piece:
    """Base, pole and a glowing shade. Style: `floor`, `small` (stands on furniture) or `hanging` (from the ceiling)."""
    u = rng.uniform
    wide = {"floor": u(0.38, 0.6), "small": u(0.26, 0.4), "hanging": u(0.4, 0.75)}[style]
    height = {"floor": u(1.35, 1.8), "small": u(0.42, 0.62), "hanging": u(0.7, 1.0)}[style]
    tall = {"floor": u(0.28, 0.42), "small": u(0.2, 0.28), "hanging": u(0.24, 0.4)}[style]
    colour, cloth = choose(rng, ("white", "white", "yellow", "orange", "red", "beige", "teal", "pink"))
    metal = (METAL, DARK, shade(tint(rng, "brown"), 1.2))[rng.integers(3)]
    glow = u(0.5, 1.6) if u() < 0.75 else 0.0
    piece = Piece("lamp", colour, wide, height, wide)
    if style == "hanging":
        piece.add("cylinder", (0, tall, 0), (0.025, height - tall, 0.025), DARK)
        piece.add("cylinder", (0, height - 0.03, 0), (0.12, 0.03, 0.12), DARK)
        shape = ("cone", "ball", "cylinder")[rng.integers(3)]
        piece.add(shape, (0, 0, 0), (wide, tall, wide), cloth, glow=glow)
        return piece
    base = 0.03 if style == "floor" else 0.02
    piece.add("cylinder", (0, 0, 0), (wide * 0.62, base, wide * 0.62), metal)
    if style == "small" and u() < 0.6:
        piece.add("ball", (0, base, 0), (wide * 0.5, height - tall - base + 0.02, wide * 0.5), choose(rng, FABRICS)[1])
    thick = 0.045 if style == "floor" else 0.035
    piece.add("cylinder", (0, base, 0), (thick, height - tall * 0.6, thick), metal)
    shape = "cone" if u() < 0.7 else "cylinder"
    piece.add(shape, (0, height - tall, 0), (wide, tall, wide), cloth, glow=glow)
    return piece


def plant(rng: np.random.Generator) -> Piece:
    """A pot with a bush of leaves, a palm, or a small tree."""
    u = rng.uniform
    height, wide = u(0.95, 1.8), u(0.75, 1.1)
    green = tint(rng, "green")
    pot = choose(rng, ("brown", "orange", "white", "black", "gray", "blue", "yellow"))[1]
    piece = Piece("plant", "green", wide, height, wide)
    tall, across = u(0.24, 0.38), u(0.28, 0.4)
    piece.add("cone", (0, 0, 0), (across, -tall, across), pot)
    piece.add("cylinder", (0, tall - 0.03, 0), (across * 1.06, 0.05, across * 1.06), shade(pot, 0.9))
    piece.add("cylinder", (0, tall + 0.02, 0), (across * 0.9, 0.01, across * 0.9), (0.03, 0.02, 0.012))
    style = rng.integers(3)
    crown = tall + 0.02
    if style == 2:
        piece.add("cylinder", (0, tall, 0), (0.06, height * 0.5, 0.06), (0.12, 0.07, 0.04))
        crown = max(height * 0.45, tall + 0.1)
    _leaves(rng, piece, green, crown, palm=style == 1)
    return piece


def _leaves(rng: np.random.Generator, piece: Piece, green: Rgb, crown: float, palm: bool) -> None:
    height, radius = piece.height, piece.width / 2
    count = 18 if palm else 40
    draws = rng.random((count, 5)).tolist()
    for k, (turn, light, first, second, third) in enumerate(draws):
        yaw = k * 2.39996 + (turn - 0.5) * 0.8
        colour = shade(green, 0.6 + 0.9 * light)
        if palm:
            # A long leaf from the pot outwards, its far end at the rim of the piece.
            rise, out = (height - crown) * (0.5 + 0.48 * first), radius * (0.35 + 0.6 * second)
            long, tilt = math.hypot(rise, out), math.atan2(out, rise)
            away = out / 2
            centre, size = crown + rise / 2, (0.16, long, 0.03)
        else:
            level = (k + 0.5) / count
            size = (0.18 + 0.1 * first, 0.26 + 0.14 * first, 0.03)
            bulge = math.sqrt(max(0.0, 1 - (2 * level - 1) ** 2))
            away = max(radius - 0.16, 0.05) * bulge * (0.55 + 0.45 * second)
            tilt = (0.5 + third) * (1.2 - level)
            low, high = crown + size[1] / 2, height - size[1] / 2
            centre = low + (high - low) * level if high > low else (crown + height) / 2
        at = (away * math.sin(yaw), centre - size[1] / 2, away * math.cos(yaw))
        piece.add("leaf", at, size, colour, yaw=yaw, tilt=tilt)


def rug(rng: np.random.Generator) -> Piece:
    """A flat carpet: plain with a border, striped, or round."""
    u = rng.uniform
    colour, cloth = choose(rng, FABRICS)
    accent = shade(cloth, 1.6 if sum(cloth) < 0.9 else 0.5) if u() < 0.6 else choose(rng, FABRICS)[1]
    style = rng.integers(3)
    width, depth = u(1.5, 2.8), u(1.1, 2.0)
    if style == 2:
        width = depth = u(1.3, 2.1)
    piece = Piece("rug", colour, width, RUG_HEIGHT, depth)
    low = RUG_HEIGHT * 0.6
    if style == 2:
        piece.add("disc", (0, low, 0), (width, 0.0, depth), accent)
        piece.add("disc", (0, RUG_HEIGHT, 0), (width * 0.84, 0.0, depth * 0.84), cloth)
        return piece
    piece.mat((0, low, 0), (width, depth), accent if style == 0 else cloth)
    if style == 0:
        piece.mat((0, RUG_HEIGHT, 0), (width - 0.24, depth - 0.24), cloth)
    else:
        stripes = rng.integers(2, 5)
        for k in range(stripes):
            x = ((k + 0.5) / stripes - 0.5) * width
            piece.mat((x, RUG_HEIGHT, 0), (width / stripes * 0.4, depth), accent)
    return piece


def window(rng: np.random.Generator, sky: Rgb) -> Piece:
    """Frame, bars and panes showing the sky and a horizon; sometimes curtains."""
    u = rng.uniform
    width, height = u(0.9, 2.0), u(1.0, 1.5)
    colour, wood = choose(rng, ("white", "white", "white", "brown", "gray", "black"))
    piece = Piece("window", colour, width, height, WALL_DEPTH)
    z = -WALL_DEPTH / 2
    ground = shade(tint(rng, "green" if u() < 0.7 else "gray"), 0.8)
    horizon = height * u(0.0, 0.35)
    piece.sheet((0, 0, z + 0.008), (width, height), sky, glow=1.0)
    if horizon > 0.08:
        piece.sheet((0, 0, z + 0.011), (width, horizon), ground, glow=max(sky) * 0.8)
    curtains = u() < 0.45
    inner, bar = width - (0.3 if curtains else 0.0), u(0.05, 0.08)
    for side in (-1, 1):
        piece.sheet((side * (inner - bar) / 2, 0, z + 0.018), (bar, height), wood)
    for y in (0.0, height - bar):
        piece.sheet((0, y, z + 0.02), (inner, bar), wood)
    panes = 2 if width < 1.4 else rng.integers(2, 4)
    for k in range(1, panes):
        piece.sheet(((k / panes - 0.5) * inner, bar, z + 0.014), (bar * 0.8, height - 2 * bar), wood)
    if u() < 0.5:
        piece.sheet((0, height * 0.62, z + 0.016), (inner - bar, bar * 0.7), wood)
    if curtains:
        cloth = choose(rng, FABRICS)[1]
        for side in (-1, 1):
            for k in range(3):
                x = side * (width / 2 - 0.05 - 0.09 * k)
                piece.sheet((x, 0, z + 0.03), (0.09, height), shade(cloth, 1 - 0.25 * (k % 2)))
    return piece


def door(rng: np.random.Generator) -> Piece:
    """Leaf with two to four panels, frame and handle."""
    u = rng.uniform
    width, height = u(0.85, 1.05), u(1.98, 2.12)
    colour, wood = choose(rng, (*WOODS, "white", "red", "green", "blue", "teal"))
    piece = Piece("door", colour, width, height, WALL_DEPTH)
    z, frame = -WALL_DEPTH / 2, u(0.06, 0.1)
    trim = tint(rng, "white") if u() < 0.5 else shade(wood, 0.6)
    piece.sheet((0, 0, z + 0.03), (width - 2 * frame, height - frame), wood)
    for side in (-1, 1):
        piece.box((side * (width - frame) / 2, 0, z + 0.02), (frame, height, 0.04), trim)
    piece.box((0, height - frame, z + 0.021), (width - 2 * frame + 0.01, frame, 0.04), trim)
    leaf, rows = width - 2 * frame, rng.integers(1, 4)
    columns = rng.integers(1, 3)
    relief = shade(wood, 0.6 if u() < 0.7 else 1.4)
    for r in range(rows):
        for c in range(columns):
            wide, tall = (leaf - 0.1) / columns, (height - frame - 0.14) / rows
            at = ((c - (columns - 1) / 2) * wide, 0.1 + r * tall, z + 0.033)
            piece.sheet(at, (wide - 0.08, tall - 0.08), relief)
    side = 1 if u() < 0.5 else -1
    piece.sheet((side * (leaf / 2 - 0.08), height * 0.48, z + 0.04), (0.12, 0.045), METAL)
    return piece


def picture(rng: np.random.Generator) -> Piece:
    """A frame around a landscape, an abstract painting or a portrait."""
    u = rng.uniform
    width, height = (u(0.7, 1.4), u(0.5, 0.95)) if u() < 0.65 else (u(0.45, 0.8), u(0.7, 1.1))
    colour, wood = choose(rng, ("black", "brown", "white", "yellow", "red", "gray"))
    piece = Piece("picture", colour, width, height, 0.04)
    z, frame = -0.02, u(0.04, 0.07)
    for side in (-1, 1):
        piece.sheet((side * (width - frame) / 2, 0, z + 0.03), (frame, height), wood)
    for y in (0.0, height - frame):
        piece.sheet((0, y, z + 0.03), (width - 2 * frame, frame), wood)
    piece.sheet((0, 0, z + 0.012), (width, height), tint(rng, "white"))
    mat = u(0.0, 0.06)
    inner, tall = width - 2 * frame - 2 * mat, height - 2 * frame - 2 * mat
    low, hues = frame + mat, [tint(rng, name) for name in rng.choice(list(COLOURS), 4)]
    piece.sheet((0, low, z + 0.015), (inner, tall), hues[0])
    if u() < 0.5:
        piece.sheet((0, low, z + 0.018), (inner, tall * u(0.3, 0.5)), hues[1])
        sun = min(inner, tall) * 0.3
        piece.sheet((u(-0.2, 0.2) * inner, low + tall * 0.55, z + 0.018), (sun, sun), hues[2])
    else:
        for k in range(3):
            wide, high = u(0.2, 0.5) * inner, u(0.2, 0.6) * tall
            at = (u(-0.5, 0.5) * (inner - wide), low + u(0, 1) * (tall - high), z + 0.018 + 0.003 * k)
            piece.sheet(at, (wide, high), hues[k + 1])
    return piece
