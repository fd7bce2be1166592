from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.prepare.rooms.shapes import SHAPES, Box, Piece, Placed, build


def _one(shape: str, **turn: float) -> Placed:
    piece = Piece("table", "red", 1.0, 1.0, 1.0)
    piece.add(shape, (0.0, 0.0, 0.0), (0.4, 0.6, 0.2), (0.5, 0.5, 0.5), **turn)
    return Placed(piece, 2.0, 0.0, 3.0, 0.0)


@pytest.mark.parametrize("shape", ["box", "cylinder", "cone", "ball", "cushion", "leaf"])
def test_solids_are_closed_and_their_normals_point_outwards(shape: str) -> None:
    mesh = build([_one(shape)])
    corners = mesh.vertices[mesh.faces] - mesh.vertices.mean(axis=0)
    # Six times the signed volume: positive only if the triangles are ordered outwards.
    assert np.linalg.det(corners).sum() > 0
    edges = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1)


def test_a_box_fills_exactly_its_size_above_its_bottom() -> None:
    mesh = build([_one("box")])
    np.testing.assert_allclose(mesh.vertices.min(axis=0), (1.8, 0.0, 2.9))
    np.testing.assert_allclose(mesh.vertices.max(axis=0), (2.2, 0.6, 3.1))


def test_a_mirrored_solid_still_faces_outwards() -> None:
    piece = Piece("plant", "green", 1, 1, 1)
    piece.add("cone", (0, 0, 0), (0.4, -0.6, 0.4), (0.5, 0.5, 0.5))
    mesh = build([Placed(piece, 0, 0, 0, 0)])
    assert np.linalg.det(mesh.vertices[mesh.faces] - mesh.vertices.mean(axis=0)).sum() > 0


def test_flat_shapes_face_front_or_up() -> None:
    piece = Piece("rug", "red", 1, 1, 1)
    piece.sheet((0, 0, 0), (1, 1), (0.5, 0.5, 0.5))
    assert build([Placed(piece, 0, 0, 0, 0)]).normals.tolist() == [[0, 0, 1]] * 2
    for shape in ("mat", "disc"):
        piece = Piece("rug", "red", 1, 1, 1)
        piece.add(shape, (0, 0, 0), (1, 0, 1), (0.5, 0.5, 0.5))
        np.testing.assert_allclose(build([Placed(piece, 0, 0, 0, 0)]).normals @ (0, 1, 0), 1)


def test_turning_by_a_quarter_brings_the_front_to_plus_x() -> None:
    piece = Piece("picture", "red", 1, 1, 1)
    piece.sheet((0, 0, 0.5), (1, 1), (0.5, 0.5, 0.5))
    placed = Placed(piece, 0, 0, 0, math.pi / 2)
    np.testing.assert_allclose(build([placed]).normals[0], (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(placed.point(0, 0, 0.5), (0.5, 0, 0), atol=1e-12)


def test_a_tilted_solid_leans_to_the_front() -> None:
    mesh = build([_one("box", tilt=0.2)])
    top, bottom = mesh.vertices[mesh.vertices[:, 1] > 0.3], mesh.vertices[mesh.vertices[:, 1] < 0.3]
    assert top[:, 2].mean() > bottom[:, 2].mean() + 0.1


def test_every_triangle_knows_its_piece_in_spite_of_the_order_by_shape() -> None:
    first, second = _one("ball"), _one("box")
    mesh = build([first, Placed(second.piece, 9.0, 0.0, 9.0, 0.0)])
    centre = mesh.vertices[mesh.faces].mean(axis=1)
    assert ((centre[:, 0] > 5) == (mesh.piece == 1)).all()
    assert len(SHAPES) == 9


def test_boxes_that_touch_do_not_overlap() -> None:
    box = Box(0, 1, 0, 1, 0, 1)
    assert not box.overlaps(Box(1, 2, 0, 1, 0, 1))
    assert box.overlaps(Box(0.9, 2, 0.5, 3, -1, 0.1))
    assert box.grown(0.1).overlaps(Box(1, 2, 0, 1, 0, 1))
