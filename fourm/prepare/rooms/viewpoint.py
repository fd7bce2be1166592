"""The search for a view of a room that shows its furniture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.camera import Camera, look_at
from fourm.prepare.rooms.classes import CLASSES, OBJECTS
from fourm.prepare.rooms.rays import Tracer
from fourm.prepare.rooms.room import Room
from fourm.prepare.rooms.shapes import Box, Mesh

_CANDIDATES = 8
_PROBE = 12
_CLEARANCE = 0.3
_GOOD = 1.3

# What a view gains from a kind of object. Small and rare kinds count more, so that a data set has enough of each.
_WANTED = {
    "plant": 3.0, "lamp": 2.0, "desk": 2.0, "door": 1.6, "window": 1.6, "sofa": 1.6, "bed": 1.8, "wardrobe": 1.2,
    "chair": 1.2, "rug": 0.4, "shelf": 0.7,
}  # fmt: skip
_BONUS = np.array([_WANTED.get(kind, 1.0) for kind in OBJECTS])


def find_view(rng: np.random.Generator, room: Room, mesh: Mesh, tracer: Tracer) -> Camera:
    """The first of some random cameras that sees enough objects at a sensible distance, or else the best of them."""
    solid = [item for item in room.objects if item.piece.kind != "rug"]
    boxes = [item.bounds() for item in solid]
    cameras = [_candidate(rng, room, boxes, [item.piece.kind for item in solid]) for _ in range(_CANDIDATES)]
    scores = _scores(cameras, room, mesh, tracer)
    good = np.flatnonzero(scores >= _GOOD)
    return cameras[good[0] if len(good) else int(scores.argmax())]


def _candidate(rng: np.random.Generator, room: Room, boxes: list[Box], kinds: list[str]) -> Camera:
    """A camera outside all objects, aimed near one of them."""
    x, y, z = _standpoint(rng, room, [box.grown(_CLEARANCE) for box in boxes])
    centres = [((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2, (b.z0 + b.z1) / 2) for b in boxes]
    far = [k for k, centre in enumerate(centres) if math.hypot(centre[0] - x, centre[2] - z) > 1.5]
    aim = (room.width / 2, 0.5, room.depth / 2)
    if far:
        weights = np.cumsum([_WANTED.get(kinds[k], 1.0) for k in far])
        aim = centres[far[int(np.searchsorted(weights, rng.uniform(0, weights[-1]), side="right"))]]
    right, above, ahead = rng.normal(0.0, 0.35, 3).tolist()
    across, along = aim[0] + right - x, aim[2] + ahead - z
    if math.hypot(across, along) < 0.3:
        across, along = across + 0.4, along + 0.4
    flat = max(math.hypot(across, along), 0.05)
    pitch = min(max(math.atan2(aim[1] + 0.6 * above - y, flat), -0.6), 0.2)
    eye = np.array([x, y, z])
    target = eye + (across, flat * math.tan(pitch), along)
    return look_at(eye, target, rng.normal(0.0, 0.025), math.radians(rng.uniform(52, 88)))


def _standpoint(rng: np.random.Generator, room: Room, boxes: list[Box]) -> tuple[float, float, float]:
    """A point at eye height, sitting to standing, that is in none of the boxes."""
    for _ in range(20):
        x, z = rng.uniform(0.25, room.width - 0.25), rng.uniform(0.25, room.depth - 0.25)
        y = min(rng.uniform(0.7, 2.2), room.height - 0.2)
        if not any(b.x0 < x < b.x1 and b.y0 < y < b.y1 and b.z0 < z < b.z1 for b in boxes):
            return x, y, z
    return room.width / 2, room.height - 0.2, room.depth / 2


def _scores(cameras: list[Camera], room: Room, mesh: Mesh, tracer: Tracer) -> NDArray[np.float64]:
    """How much each view shows: share of objects, number of kinds, minus what is too near or too large."""
    rays = _PROBE * _PROBE
    directions = np.concatenate([camera.directions(_PROBE) for camera in cameras])
    origins = np.repeat([camera.position for camera in cameras], rays, axis=0)
    triangle = tracer.first(origins, directions)
    normals = mesh.normals[triangle]
    facing = (normals * directions).sum(axis=1)
    start = mesh.vertices[mesh.faces[triangle, 0]] - origins
    depth = (normals * start).sum(axis=1) / np.where(facing == 0, -1e-9, facing)
    near = ((depth < 0.9) | (triangle < 0)).reshape(-1, rays).mean(axis=1)
    pieces = len(room.placed)
    view = np.repeat(np.arange(len(cameras)), rays)
    counts = np.bincount(view * pieces + mesh.piece[triangle], minlength=len(cameras) * pieces)
    share = counts.reshape(len(cameras), pieces) / rays
    kind = np.array([CLASSES.index(item.piece.kind) for item in room.placed])
    named = np.stack([share[:, kind == CLASSES.index(name)].sum(axis=1) for name in OBJECTS], axis=1)
    largest = share[:, room.num_shell :].max(axis=1, initial=0.0)
    shown = 1.6 * np.minimum(named.sum(axis=1), 0.6) + 0.13 * ((named > 0.035) * _BONUS).sum(axis=1)
    score: NDArray[np.float64] = shown - 2.0 * near - 3.0 * np.maximum(largest - 0.4, 0.0)
    return score
