"""The colour of a view: 2 x 2 samples per pixel, with soft shadows and ambient occlusion, exposed like a photograph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.camera import Camera
from fourm.prepare.rooms.classes import MAX_DEPTH_METRES
from fourm.prepare.rooms.light import F32, Light, direct, dot, openness
from fourm.prepare.rooms.rays import Tracer
from fourm.prepare.rooms.room import Room
from fourm.prepare.rooms.shapes import Mesh
from fourm.prepare.rooms.smooth import Smoother

_SAMPLES = 2
_LIFT = np.float32(1e-3)  # metres: rays start this far off the surface they leave


def shade_view(
    rng: np.random.Generator, room: Room, mesh: Mesh, tracer: Tracer, camera: Camera, light: Light, size: int
) -> NDArray[np.uint8]:
    """The picture, (size, size, 3) sRGB bytes: reflected and emitted light of every sample, averaged per pixel."""
    directions = camera.directions(size, _SAMPLES).astype(np.float32)
    eye = camera.position.astype(np.float32)
    triangle = tracer.first(eye[None], directions)
    points, normals = _surface(mesh, triangle, eye, directions)
    smooth = Smoother(mesh, triangle, _SAMPLES)
    arriving = smooth(direct(rng, tracer, light, points, normals))
    free = np.float32(0.25) + np.float32(0.75) * smooth(openness(rng, tracer, points, normals))
    from_above = free * (np.float32(0.85) + np.float32(0.25) * normals[1])
    # The floor sends some of its own colour up.
    floor = mesh.colour[mesh.piece == 0][0] * np.float32(0.25)
    from_below = free * (np.float32(0.6) - np.float32(0.4) * normals[1])
    on_floor = np.flatnonzero(mesh.piece[triangle] == 0)
    glow = mesh.glow[triangle]
    pixels = []
    for k in range(3):
        incoming = arriving * light.power[k] + (from_above + from_below * floor[k]) * light.ambient[k] + glow
        radiance = mesh.colour[triangle, k] * incoming
        radiance[on_floor] *= _floor_pattern(room, points[:, on_floor])
        pixels.append(radiance.reshape(size * size, _SAMPLES * _SAMPLES).mean(axis=1))
    return _expose(rng, np.stack(pixels, axis=1)).reshape(size, size, 3)


def _surface(mesh: Mesh, triangle: NDArray[np.int64], eye: F32, directions: F32) -> tuple[F32, F32]:
    """Where samples meet their triangles (a little off them) and the normals on the viewer's side, (3, N) each."""
    first = mesh.vertices[mesh.faces[:, 0]] - eye
    offset = (first * mesh.normals).sum(axis=1).astype(np.float32)
    normals = np.ascontiguousarray(mesh.normals.T.astype(np.float32)[:, triangle])
    rays = np.ascontiguousarray(directions.T)
    facing = dot(normals, rays)
    facing[np.abs(facing) < 1e-7] = -1e-7
    # Thin leaves are seen from both sides.
    normals *= np.where(facing > 0, np.float32(-1), np.float32(1))
    distance = np.clip(offset[triangle] / facing, 0.0, MAX_DEPTH_METRES)
    return eye[:, None] + rays * distance + normals * _LIFT, normals


def _floor_pattern(room: Room, points: F32) -> F32 | float:
    """Brightness of planks or tiles at (3, N) points."""
    if room.floor_pattern == 0:
        return 1.0
    planks = room.floor_pattern == 1
    wide, long = (0.16, 1.4) if planks else (0.45, 0.45)
    row = np.floor(points[0] / wide)
    column = np.floor(points[2] / long + (row * 0.37 if planks else 0.0))
    noise: Any = np.sin(row * 12.9898 + column * 78.233) * 43758.547
    strength = 0.3 if planks else 0.18
    return (1 - strength / 2 + strength * (noise - np.floor(noise))).astype(np.float32)


def _expose(rng: np.random.Generator, radiance: F32) -> NDArray[np.uint8]:
    """Linear radiance (N, 3) to sRGB bytes, exposed so that the picture's middle brightness is plausible."""
    luminance = radiance[:, 0] * 0.3 + radiance[:, 1] * 0.6 + radiance[:, 2] * 0.1
    middle = math.exp(float(np.log(luminance + 1e-3).mean()))
    scaled = radiance * np.float32(rng.uniform(0.2, 0.34) / middle)
    # A soft shoulder keeps windows and lamps from clipping hard.
    toned = np.minimum(scaled, 0.6) + (1 - np.exp(-np.maximum(scaled - 0.6, 0) / 0.4)) * np.float32(0.4)
    return np.round(np.clip(toned, 0, 1) ** np.float32(1 / 2.2) * 255).astype(np.uint8)
