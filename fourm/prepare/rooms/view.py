"""One rendered view of a room: the labels are exact, from one ray per pixel centre, in double precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.camera import Camera
from fourm.prepare.rooms.classes import CLASSES, MAX_DEPTH_METRES, VOID
from fourm.prepare.rooms.light import place_light
from fourm.prepare.rooms.rays import Tracer
from fourm.prepare.rooms.room import Room
from fourm.prepare.rooms.shading import shade_view
from fourm.prepare.rooms.shapes import Mesh


@dataclass(frozen=True)
class View:
    """One rendered room.

    Args:
        rgb: (S, S, 3) uint8.
        depth: (S, S) float64, metres along the optical axis, at most 16.
        normal: (S, S, 3) float64 unit vectors: x right, y up, z towards the viewer.
        semseg: (S, S) uint8 class ids.
        piece: (S, S) int32 index into `room.placed`, -1 for none.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float64]
    normal: NDArray[np.float64]
    semseg: NDArray[np.uint8]
    piece: NDArray[np.int32]


def render_view(rng: np.random.Generator, room: Room, mesh: Mesh, tracer: Tracer, camera: Camera, size: int) -> View:
    """Render one view of a room, `size` pixels square."""
    view = label_view(room, mesh, tracer, camera, size)
    return replace(view, rgb=shade_view(rng, room, mesh, tracer, camera, place_light(rng, room), size))


def label_view(room: Room, mesh: Mesh, tracer: Tracer, camera: Camera, size: int) -> View:
    """The labels of a view, whose picture is black."""
    depth, normal, piece = trace_labels(mesh, tracer, camera, size)
    ids = np.array([CLASSES.index(item.piece.kind) for item in room.placed] + [VOID], np.uint8)
    return View(np.zeros((size, size, 3), np.uint8), depth, normal, ids[piece], piece)


def trace_labels(
    mesh: Mesh, tracer: Tracer, camera: Camera, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Depth (S, S), normals (S, S, 3) and index of the piece (S, S), from the triangle that each ray meets first."""
    directions = camera.directions(size)
    triangle = tracer.first(camera.position[None], directions)
    met = triangle >= 0
    plane = mesh.normals[triangle]
    start = mesh.vertices[mesh.faces[triangle, 0]] - camera.position
    facing = (plane * directions).sum(axis=1)
    # A ray along a plane can meet it only at its rim; any value of that pixel is as good as any other.
    facing = np.where(np.abs(facing) < 1e-9, 1e-9, facing)
    depth = np.where(met, (plane * start).sum(axis=1) / facing, MAX_DEPTH_METRES)
    normal = camera.to_camera(plane * -np.sign(facing)[:, None])
    normal[~met] = (0.0, 0.0, 1.0)
    piece = np.where(met, mesh.piece[triangle], np.int32(-1)).astype(np.int32)
    return (
        np.clip(depth, 0.0, MAX_DEPTH_METRES).reshape(size, size),
        normal.reshape(size, size, 3),
        piece.reshape(size, size),
    )
