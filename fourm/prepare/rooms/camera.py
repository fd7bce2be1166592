"""Pinhole cameras, and the search for a view of a room that shows its furniture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.classes import CLASSES, OBJECTS
from fourm.prepare.rooms.rays import Tracer
from fourm.prepare.rooms.room import Room
from fourm.prepare.rooms.shapes import Box, Mesh, Placed

_PROBE = 12
_CANDIDATES = 10
_CLEARANCE = 0.3
_GOOD = 1.3
# Small and rare kinds are looked at more often, so that a data set has enough of each.
_WANTED = {
    "plant": 3.0,
    "lamp": 2.0,
    "desk": 2.0,
    "door": 1.6,
    "window": 1.6,
    "sofa": 1.6,
    "chair": 1.2,
    "rug": 0.4,
    "shelf": 0.6,
}


@dataclass(frozen=True)
class Camera:
    """Where one looks from and to.

    Args:
        position: (3,) metres.
        axes: (3, 3) rows are the unit vectors right, up and forward of the image in the room.
        slope: tangent of half the field of view (square images).
    """

    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    slope: float

    def directions(self, size: int, samples: int = 1) -> NDArray[np.float64]:
        """Ray directions whose component along the optical axis is 1, so that distances along them are z-depths.

        Args:
            size: pixels per side.
            samples: rays per pixel and axis, at the centres of equal cells.

        Returns:
            (size * size * samples**2, 3); samples of one pixel lie together.
        """
        cells = (np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1
        grid = np.broadcast_to(cells * self.slope, (size * samples, size * samples))
        across, down = (
            part.reshape(size, samples, size, samples).transpose(0, 2, 1, 3).reshape(-1, 1) for part in (grid, grid.T)
        )
        right, up, forward = self.axes
        return across * right - down * up + forward

    def to_camera(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Turn (N, 3) directions of the room into camera space: x right, y up, z towards the viewer."""
        right, up, forward = self.axes
        return np.stack([_dot(vectors, right), _dot(vectors, up), -_dot(vectors, forward)], axis=-1)


def _dot(vectors: NDArray[Any], axis: NDArray[Any]) -> NDArray[Any]:
    # Not a matrix product: those may sum in another order on another number of threads.
    return vectors[..., 0] * axis[0] + vectors[..., 1] * axis[1] + vectors[..., 2] * axis[2]


def look_at(position: NDArray[np.float64], target: NDArray[np.float64], roll: float, field_of_view: float) -> Camera:
    """A camera at `position` with `target` in the middle of its image.

    Args:
        roll, field_of_view: radians; the field of view from edge to edge.
    """
    forward = (target - position) / math.sqrt(float(((target - position) ** 2).sum()))
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= math.sqrt(float((right**2).sum()))
    up = np.cross(right, forward)
    c, s = math.cos(roll), math.sin(roll)
    return Camera(position, np.stack([c * right + s * up, c * up - s * right, forward]), math.tan(field_of_view / 2))


def find_view(rng: np.random.Generator, room: Room, mesh: Mesh, tracer: Tracer) -> Camera:
    """The first of some random cameras that sees enough objects at a sensible distance, or else the best of them."""
    solid = [item for item in room.objects if item.piece.kind != "rug"]
    boxes = [item.bounds().grown(_CLEARANCE) for item in solid]
    best, best_score = None, -math.inf
    for _ in range(_CANDIDATES):
        camera = _candidate(rng, room, solid, boxes)
        score = _score(camera, room, mesh, tracer)
        if best is None or score > best_score:
            best, best_score = camera, score
        if score >= _GOOD:
            break
    assert best is not None
    return best


def _candidate(rng: np.random.Generator, room: Room, solid: list[Placed], boxes: list[Box]) -> Camera:
    """A camera outside all objects, aimed near one of them."""
    position = np.array([room.width / 2, room.height - 0.4, room.depth / 2])
    for _ in range(20):
        height = min(rng.uniform(0.7, 2.2), room.height - 0.2)
        x, z = rng.uniform(0.25, room.width - 0.25), rng.uniform(0.25, room.depth - 0.25)
        if not any(b.x0 < x < b.x1 and b.y0 < height < b.y1 and b.z0 < z < b.z1 for b in boxes):
            position = np.array([x, height, z])
            break
    far = [item for item in solid if math.hypot(item.x - position[0], item.z - position[2]) > 1.5] or solid
    aim = np.array([room.width / 2, 0.5, room.depth / 2])
    if far:
        weights = np.array([_WANTED.get(item.piece.kind, 1.0) for item in far])
        aim = _aim(far[rng.choice(len(far), p=weights / weights.sum())])
    target = aim + rng.normal(0.0, 0.35, 3) * (1.0, 0.6, 1.0)
    flat = math.hypot(target[0] - position[0], target[2] - position[2])
    if flat < 0.3:
        target, flat = target + (0.4, 0.0, 0.4), 0.5
    pitch = math.atan2(target[1] - position[1], flat)
    target[1] = position[1] + flat * math.tan(min(max(pitch, -0.6), 0.2))
    return look_at(position, target, rng.normal(0.0, 0.025), math.radians(rng.uniform(52, 88)))


def _aim(item: Placed) -> NDArray[np.float64]:
    return np.array([item.x, item.y + item.piece.height * 0.5, item.z])


_BONUS = np.array([_WANTED.get(kind, 1.0) for kind in OBJECTS])


def _score(camera: Camera, room: Room, mesh: Mesh, tracer: Tracer) -> float:
    """How much a view shows: share of objects, number of kinds, minus what is too near or too large."""
    directions = camera.directions(_PROBE)
    triangle = tracer.first(camera.position[None], directions)
    if (triangle < 0).any():
        return -math.inf
    normals = mesh.normals[triangle]
    start = mesh.vertices[mesh.faces[triangle, 0]] - camera.position
    facing = (normals * directions).sum(axis=1)
    depth = (normals * start).sum(axis=1) / np.where(facing == 0, -1e-9, facing)
    piece = mesh.piece[triangle]
    counts = np.bincount(piece, minlength=len(room.placed)) / len(piece)
    kinds = np.zeros(len(CLASSES))
    for index in np.flatnonzero(counts):
        kinds[CLASSES.index(room.placed[index].piece.kind)] += counts[index]
    named = kinds[-len(OBJECTS) :]
    largest = float(counts[room.num_shell :].max(initial=0.0))
    near = float((depth < 0.9).mean())
    return (
        1.6 * min(float(named.sum()), 0.6)
        + 0.13 * float(_BONUS[named > 0.035].sum())
        - 2.0 * near
        - max(0.0, largest - 0.4) * 3
    )
