"""What a ray meets first, and whether it is blocked: embree, or trimesh's own engine where embree has no wheel."""

from __future__ import annotations

import functools
import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fourm.errors import MissingExtraError
from fourm.prepare.rooms.shapes import Mesh

Floats = NDArray[np.floating[Any]]


class Tracer(Protocol):
    """Ray queries on one mesh."""

    def first(self, origins: Floats, directions: Floats) -> NDArray[np.int64]:
        """The first triangle along each ray.

        Args:
            origins: (N, 3) or (1, 3).
            directions: (N, 3), of any length.

        Returns:
            (N,) index of the triangle, -1 for none.
        """
        ...

    def blocked(self, origins: Floats, directions: Floats, reach: Floats) -> NDArray[np.bool_]:
        """(N,) whether a ray meets a triangle within `reach` (N,) times the length of its direction."""
        ...


class EmbreeTracer:
    """Embree, called directly: trimesh's wrapper copies and scales every ray in double precision."""

    def __init__(self, mesh: Mesh) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        _start_embree_on_one_thread()
        self.scene = EmbreeScene()
        self.geometry = TriangleMesh(
            scene=self.scene, vertices=mesh.vertices.astype(np.float32), indices=mesh.faces.astype(np.int32)
        )

    def first(self, origins: Floats, directions: Floats) -> NDArray[np.int64]:
        return self.scene.run(_float32(origins, len(directions)), _float32(directions, len(directions))).astype(
            np.int64
        )

    def blocked(self, origins: Floats, directions: Floats, reach: Floats) -> NDArray[np.bool_]:
        rays = len(directions)
        # embreex shortens `dists` in place.
        distances = np.array(reach, np.float32)
        hit = self.scene.run(_float32(origins, rays), _float32(directions, rays), dists=distances, query="OCCLUDED")
        return np.asarray(hit == 0)


class TrimeshTracer:
    """trimesh's own engine (needs rtree): the same answers, about a hundred times slower."""

    def __init__(self, mesh: Mesh) -> None:
        import trimesh
        from trimesh.ray.ray_triangle import RayMeshIntersector

        self.mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        self.engine = RayMeshIntersector(self.mesh)

    def first(self, origins: Floats, directions: Floats) -> NDArray[np.int64]:
        return self._nearest(origins, directions)[0]

    def blocked(self, origins: Floats, directions: Floats, reach: Floats) -> NDArray[np.bool_]:
        return self._nearest(origins, directions)[1] < np.asarray(reach)

    def _nearest(self, origins: Floats, directions: Floats) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """First triangle and its distance in units of the direction's length."""
        rays = len(directions)
        start = np.broadcast_to(np.asarray(origins, np.float64), (rays, 3))
        direction = np.asarray(directions, np.float64)
        triangle, ray, where = self.engine.intersects_id(start, direction, multiple_hits=False, return_locations=True)
        index = np.full(rays, -1, np.int64)
        distance = np.full(rays, np.inf)
        index[ray] = triangle
        squared = (direction[ray] ** 2).sum(axis=1)
        distance[ray] = ((where - start[ray]) * direction[ray]).sum(axis=1) / squared
        return index, distance


def _float32(values: Floats, rays: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.broadcast_to(values, (rays, 3)), np.float32)


@functools.cache
def _start_embree_on_one_thread() -> None:
    """Start embree while the process may use one core only, so that it builds its trees without helper threads.

    Several threads would order equal primitives by chance, and get in the way of the other processes that render.
    """
    from embreex.rtcore_scene import EmbreeScene

    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        EmbreeScene()
    finally:
        os.sched_setaffinity(0, cores)


def tracer(mesh: Mesh) -> Tracer:
    """The best tracer that is installed."""
    return EmbreeTracer(mesh) if has_fast_tracer() else TrimeshTracer(mesh)


def has_fast_tracer() -> bool:
    """Whether embree is installed."""
    return _has("embreex")


def check_installed() -> None:
    """Refuse to start without what rooms need.

    Raises:
        MissingExtraError: naming the package.
    """
    purpose = "`fourm prepare rooms`"
    if not _has("trimesh"):
        raise MissingExtraError("trimesh", "rooms", purpose)
    if not _has("cv2"):
        raise MissingExtraError("opencv-python-headless", "rooms", purpose)
    if not has_fast_tracer() and not _has("rtree"):
        raise MissingExtraError("embreex' (or, where it has no wheel, 'rtree", "rooms", purpose)


def _has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None
