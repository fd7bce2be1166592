"""Light: one rectangle with soft shadows, and ambient light with occlusion.

Samples are in the order of `Camera.directions`; vectors are (3, N) float32, since numpy is fastest on long rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.rays import Tracer
from fourm.prepare.rooms.room import Room

F32 = NDArray[np.float32]

_OCCLUSION_RAYS = 2
_OCCLUSION_REACH = 1.3
_SOFTEST = 0.7  # metres squared: how fast light falls off near the lamp


@dataclass(frozen=True)
class Light:
    """A rectangle that shines, plus light from everywhere.

    Args:
        corner, edge_a, edge_b: (3,) metres.
        normal: (3,) direction it shines to, or None for all directions.
        power, ambient: (3,) linear colour.
    """

    corner: F32
    edge_a: F32
    edge_b: F32
    normal: F32 | None
    power: F32
    ambient: F32


def place_light(rng: np.random.Generator, room: Room) -> Light:
    """Daylight from one of the windows, or a lamp below the ceiling; warm or cool, strong or soft."""
    u = rng.uniform
    windows = [item for item in room.objects if item.piece.kind == "window"]
    warm = u(-0.12, 0.16)
    tone = np.array([1 + warm, 1.0, 1 - warm])
    if windows and u() < 0.5:
        pane = windows[rng.integers(len(windows))]
        width, height = pane.piece.width * 0.8, pane.piece.height * 0.8
        corner = np.array(pane.point(-width / 2, pane.piece.height * 0.1, 0.08))
        edge_a = np.array(pane.point(width / 2, pane.piece.height * 0.1, 0.08)) - corner
        inwards = _f32(math.sin(pane.yaw), 0.0, math.cos(pane.yaw))
        power, ambient = tone * u(6, 9) * width * height, tone * u(0.4, 0.7)
        return Light(_f32(*corner), _f32(*edge_a), _f32(0, height, 0), inwards, _f32(*power), _f32(*ambient))
    side = u(0.15, 0.7)
    corner = np.array([room.width * u(0.25, 0.7), room.height - u(0.03, 0.3), room.depth * u(0.25, 0.7)])
    power, ambient = tone * u(2.5, 5.0), tone * u(0.3, 0.7)
    return Light(_f32(*corner), _f32(side, 0, 0), _f32(0, 0, side), None, _f32(*power), _f32(*ambient))


def _f32(*values: float) -> F32:
    return np.array(values, np.float32)


def direct(rng: np.random.Generator, tracer: Tracer, light: Light, points: F32, normals: F32) -> F32:
    """Share of the light's power that arrives from one random point of it per sample, (N,)."""
    a, b = _cells(rng, points.shape[1])
    towards = np.stack([light.corner[k] + a * light.edge_a[k] + b * light.edge_b[k] - points[k] for k in range(3)])
    squared = dot(towards, towards)
    strength = np.maximum(dot(towards, normals), 0) / np.sqrt(squared)
    if light.normal is not None:
        strength *= np.maximum(-dot(towards, light.normal), 0) / np.sqrt(squared)
    strength /= squared + np.float32(_SOFTEST)
    lit = np.flatnonzero(strength > 1e-4)
    reach = np.full(len(lit), 0.995, np.float32)
    strength[lit[tracer.blocked(points.T[lit], towards.T[lit], reach)]] = 0
    return strength.astype(np.float32, copy=False)


def openness(rng: np.random.Generator, tracer: Tracer, points: F32, normals: F32) -> F32:
    """Share of the directions above the surface that are free for about a metre, (N,), cosine-weighted."""
    tangent, bitangent = _frame(normals)
    origins = np.ascontiguousarray(points.T)
    reach = np.full(len(origins), _OCCLUSION_REACH, np.float32)
    free = np.zeros(len(origins), np.float32)
    for k in range(_OCCLUSION_RAYS):
        u, v = _cells(rng, len(origins))
        angle = (u + np.float32(k)) * np.float32(2 * math.pi / _OCCLUSION_RAYS)
        radius, rise = np.sqrt(v), np.sqrt(1 - v)
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        away = tangent * x + bitangent * y + normals * rise
        free += ~tracer.blocked(origins, away.T, reach)
    return free / np.float32(_OCCLUSION_RAYS)


def dot(a: F32, b: F32) -> F32:
    """Inner products of the columns of (3, N) and (3, N) or (3,)."""
    total: F32 = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return total


def _frame(normals: F32) -> tuple[F32, F32]:
    """Two unit vectors orthogonal to each normal, without branches (Duff et al. 2017)."""
    x, y, z = normals
    sign = np.where(z >= 0, np.float32(1), np.float32(-1))
    a = -1 / (sign + z)
    b = x * y * a
    return np.stack([1 + sign * x * x * a, sign * b, -sign * x]), np.stack([b, sign + y * y * a, -y])


def _cells(rng: np.random.Generator, count: int) -> tuple[F32, F32]:
    """Two uniform numbers per sample; the four samples of one pixel fall into different quarters of the unit square."""
    cell = np.arange(count, dtype=np.int32) & 3
    first, second = rng.random((2, count), np.float32)
    half = np.float32(0.5)
    return (first + (cell >> 1).astype(np.float32)) * half, (second + (cell & 1).astype(np.float32)) * half
