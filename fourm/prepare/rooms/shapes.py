"""Pieces of furniture as lists of simple solids, and scenes as one triangle mesh."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.palette import Rgb

SHAPES = ("box", "cylinder", "cone", "ball", "cushion", "leaf", "sheet", "mat", "disc")
_COLUMNS = 13  # shape, centre (3), size (3), yaw, tilt, colour (3), glow


@dataclass
class Piece:
    """One object in its own frame: metres, y up, front towards +z, footprint centred on the origin, bottom at y = 0.

    Args:
        kind: class name.
        colour: what a caption calls its colour.
        width, height, depth: extent along x, y and z; every solid lies within.
        spot: where a small thing can stand on it: (x, y, z), or None.
    """

    kind: str
    colour: str
    width: float
    height: float
    depth: float
    spot: tuple[float, float, float] | None = None
    solids: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self,
        shape: str,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        colour: Rgb,
        *,
        yaw: float = 0.0,
        tilt: float = 0.0,
        glow: float = 0.0,
    ) -> None:
        """Add a solid.

        Args:
            at: x and z of its centre and y of its bottom (before it is turned about its centre).
            size: extent along x, y, z; a negative height turns a cone upside down; what a flat shape lacks is ignored.
            colour: linear reflectance.
            yaw, tilt: radians; first tilted about x (top towards +z), then turned about y (+z towards +x).
            glow: emitted radiance in units of its colour.
        """
        x, y, z = at
        self.solids.append((SHAPES.index(shape), x, y + abs(size[1]) / 2, z, *size, yaw, tilt, *colour, glow))

    def box(
        self,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        colour: Rgb,
        *,
        tilt: float = 0.0,
        glow: float = 0.0,
    ) -> None:
        """Add a box; see `add`."""
        self.add("box", at, size, colour, tilt=tilt, glow=glow)

    def sheet(self, at: tuple[float, float, float], size: tuple[float, float], colour: Rgb, glow: float = 0.0) -> None:
        """Add an upright rectangle that faces +z: relief and paint without rims that a coarse picture cannot show."""
        self.add("sheet", at, (*size, 1.0), colour, glow=glow)

    def mat(self, at: tuple[float, float, float], size: tuple[float, float], colour: Rgb) -> None:
        """Add a lying rectangle that faces up, at height y."""
        self.add("mat", at, (size[0], 0.0, size[1]), colour)

    def legs(self, width: float, depth: float, height: float, thickness: float, colour: Rgb) -> None:
        """Add four legs at the corners of a rectangle around the origin."""
        for x in (-1, 1):
            for z in (-1, 1):
                at = (x * (width - thickness) / 2, 0.0, z * (depth - thickness) / 2)
                self.box(at, (thickness, height, thickness), colour)


class Box(NamedTuple):
    """An axis-aligned box in the room, metres."""

    x0: float
    x1: float
    y0: float
    y1: float
    z0: float
    z1: float

    def overlaps(self, other: Box) -> bool:
        """Whether the interiors meet."""
        return (
            self.x0 < other.x1
            and other.x0 < self.x1
            and self.z0 < other.z1
            and other.z0 < self.z1
            and self.y0 < other.y1
            and other.y0 < self.y1
        )

    def grown(self, margin: float) -> Box:
        """The box enlarged on all sides."""
        return Box(
            self.x0 - margin, self.x1 + margin, self.y0 - margin, self.y1 + margin, self.z0 - margin, self.z1 + margin
        )


@dataclass(frozen=True)
class Placed:
    """A piece at its place in the room: the origin of its frame at (x, y, z), turned by `yaw` about y."""

    piece: Piece
    x: float
    y: float
    z: float
    yaw: float

    def bounds(self) -> Box:
        """The smallest axis-aligned box around the (turned) extent of the piece."""
        c, s = abs(math.cos(self.yaw)), abs(math.sin(self.yaw))
        half_x = (self.piece.width * c + self.piece.depth * s) / 2
        half_z = (self.piece.width * s + self.piece.depth * c) / 2
        return Box(
            self.x - half_x, self.x + half_x, self.y, self.y + self.piece.height, self.z - half_z, self.z + half_z
        )

    def point(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A point of the piece's frame in the room."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return (self.x + c * x + s * z, self.y + y, self.z - s * x + c * z)


class Mesh(NamedTuple):
    """All triangles of a room.

    Args:
        vertices: (V, 3) float64 metres.
        faces: (F, 3) int32.
        normals: (F, 3) float64 unit, outwards.
        piece: (F,) index of the placed piece.
        colour: (F, 3) float32 linear reflectance.
        glow: (F,) float32 emission.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    normals: NDArray[np.float64]
    piece: NDArray[np.int32]
    colour: NDArray[np.float32]
    glow: NDArray[np.float32]


@functools.cache
def _templates() -> list[tuple[NDArray[np.float64], NDArray[np.int32]]]:
    """Vertices within the unit cube around the origin, and faces, of every shape."""
    import trimesh

    box = trimesh.creation.box()
    cylinder = trimesh.creation.cylinder(radius=0.5, height=1.0, sections=12)
    cylinder.apply_transform(trimesh.transformations.rotation_matrix(-math.pi / 2, (1, 0, 0)))
    cone = cylinder.copy()
    cone.vertices[cone.vertices[:, 1] > 0] *= (0.6, 1.0, 0.6)
    ball = trimesh.creation.icosphere(subdivisions=1, radius=0.5)
    cushion = trimesh.creation.box().subdivide()
    cushion.vertices *= 0.5 / (np.abs(cushion.vertices) ** 5).sum(axis=1, keepdims=True) ** 0.2
    leaf = trimesh.Trimesh(
        [(0, -0.5, 0), (0.5, 0, 0.1), (-0.5, 0, 0.1), (0, 0.5, 0), (0, 0, -0.5)],
        [(0, 1, 2), (3, 2, 1), (0, 4, 1), (0, 2, 4), (3, 1, 4), (3, 4, 2)],
    )
    square = np.array([(-0.5, -0.5, 0), (0.5, -0.5, 0), (0.5, 0.5, 0), (-0.5, 0.5, 0)])
    sheet = trimesh.Trimesh(square, [(0, 1, 2), (0, 2, 3)])
    mat = trimesh.Trimesh(square[:, [0, 2, 1]] * (1, 1, -1), [(0, 1, 2), (0, 2, 3)])
    angle = np.arange(20) * (2 * math.pi / 20)
    rim = np.stack([np.cos(angle) / 2, 0 * angle, -np.sin(angle) / 2], axis=1)
    disc = trimesh.Trimesh(rim, [(0, k, k + 1) for k in range(1, 19)], process=False)
    return [
        (np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32))
        for mesh in (box, cylinder, cone, ball, cushion, leaf, sheet, mat, disc)
    ]


def build(placed: list[Placed]) -> Mesh:
    """One mesh of all pieces, in a fixed order of triangles."""
    solids = np.array([row for item in placed for row in item.piece.solids], np.float64).reshape(-1, _COLUMNS)
    piece = np.repeat(np.arange(len(placed), dtype=np.int32), [len(item.piece.solids) for item in placed])
    pose = np.array([(item.x, item.y, item.z, item.yaw) for item in placed])[piece]
    cos, sin = np.cos(pose[:, 3]), np.sin(pose[:, 3])
    x, y, z = solids[:, 1], solids[:, 2], solids[:, 3]
    centre = np.stack([pose[:, 0] + cos * x + sin * z, pose[:, 1] + y, pose[:, 2] - sin * x + cos * z], axis=1)
    yaw = pose[:, 3] + solids[:, 7]
    vertices, faces, owner = [], [], []
    count = 0
    for shape, (points, triangles) in enumerate(_templates()):
        rows = np.flatnonzero(solids[:, 0] == shape)
        if len(rows) == 0:
            continue
        turned = _turn(points[None] * solids[rows, None, 4:7], solids[rows, 8, None], yaw[rows, None])
        vertices.append((turned + centre[rows, None]).reshape(-1, 3))
        corner = triangles[None] + count + (np.arange(len(rows)) * len(points))[:, None, None]
        # A negative height mirrors the solid: its triangles turn inside out and are turned back.
        corner = np.where(solids[rows, 5, None, None] < 0, corner[:, :, ::-1], corner)
        faces.append(corner.reshape(-1, 3))
        owner.append(np.repeat(rows, len(triangles)))
        count += len(rows) * len(points)
    all_vertices, all_faces, solid = np.concatenate(vertices), np.concatenate(faces), np.concatenate(owner)
    a, b, c = (all_vertices[all_faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.sqrt((normals * normals).sum(axis=1, keepdims=True))
    return Mesh(
        all_vertices,
        np.ascontiguousarray(all_faces, np.int32),
        normals,
        piece[solid],
        solids[solid, 9:12].astype(np.float32),
        solids[solid, 12].astype(np.float32),
    )


def _turn(points: NDArray[np.float64], tilt: NDArray[np.float64], yaw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn (n, v, 3) points about x by (n, 1) `tilt`, then about y by (n, 1) `yaw`."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    cos, sin = np.cos(tilt), np.sin(tilt)
    y, z = cos * y - sin * z, sin * y + cos * z
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([cos * x + sin * z, y, -sin * x + cos * z], axis=-1)
