from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from fourm.errors import MissingExtraError
from fourm.prepare.rooms import rays
from fourm.prepare.rooms.layout import furnish
from fourm.prepare.rooms.shapes import Mesh, Piece, Placed, build
from fourm.rng import generator

ENGINES = [
    pytest.param(
        rays.EmbreeTracer, marks=pytest.mark.skipif(not importlib.util.find_spec("embreex"), reason="embreex")
    ),
    pytest.param(rays.TrimeshTracer, marks=pytest.mark.skipif(not importlib.util.find_spec("rtree"), reason="rtree")),
]


def _block() -> Mesh:
    piece = Piece("table", "red", 1, 1, 1)
    piece.box((0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5))
    return build([Placed(piece, 0.0, 0.0, 5.0, 0.0)])


@pytest.mark.parametrize("engine", ENGINES)
def test_rays_meet_the_near_side_or_nothing(engine: type[rays.Tracer]) -> None:
    mesh = _block()
    found = engine(mesh).first(np.array([[0.1, 0.6, 0.0]]), np.array([[0.0, 0.0, 3.0], [0.0, 0.0, -1.0]]))
    np.testing.assert_allclose(mesh.normals[found[0]], (0, 0, -1))
    assert found[1] == -1


@pytest.mark.parametrize("engine", ENGINES)
def test_reach_counts_in_lengths_of_the_direction(engine: type[rays.Tracer]) -> None:
    origins, directions = np.repeat([[0.1, 0.6, 0.0]], 3, axis=0), np.array([[0.0, 0.0, 3.0]] * 3)
    # The near side is at 4.5 metres, 1.5 lengths.
    reach = np.array([1.4, 1.6, 100.0])
    assert engine(_block()).blocked(origins, directions, reach).tolist() == [False, True, True]
    assert reach.tolist() == [1.4, 1.6, 100.0]


@pytest.mark.skipif(
    not importlib.util.find_spec("embreex") or not importlib.util.find_spec("rtree"), reason="needs both engines"
)
def test_both_engines_see_the_same_room(rng: np.random.Generator) -> None:
    mesh = build(furnish(generator("rays", 0)).placed)
    directions = rng.normal(size=(300, 3))
    origin = np.array([[1.5, 2.2, 1.5]])
    embree, trimesh = rays.EmbreeTracer(mesh), rays.TrimeshTracer(mesh)
    assert (embree.first(origin, directions) == trimesh.first(origin, directions)).mean() > 0.99
    reach = np.full(300, 1.0)
    assert (embree.blocked(origin, directions, reach) == trimesh.blocked(origin, directions, reach)).mean() > 0.99


@pytest.mark.parametrize(
    ("missing", "named"), [({"trimesh"}, "trimesh"), ({"cv2"}, "opencv"), ({"embreex", "rtree"}, "embreex")]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, missing: set[str], named: str
) -> None:
    monkeypatch.setattr(rays, "_has", lambda package: package not in missing)
    with pytest.raises(MissingExtraError, match=rf"{named}.*pip install 'fourm\[rooms\]'"):
        rays.check_installed()


def test_one_ray_tracer_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rays, "_has", lambda package: package != "embreex")
    rays.check_installed()
