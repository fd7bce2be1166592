from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from fourm.prepare.rooms import decor, furniture
from fourm.prepare.rooms.palette import COLOURS
from fourm.prepare.rooms.shapes import Piece, Placed, build

BUILDERS: dict[str, Callable[[np.random.Generator], Piece]] = {
    "bed": furniture.bed, "sofa": furniture.sofa, "table": partial(furniture.table, low=False),
    "low table": partial(furniture.table, low=True), "chair": furniture.chair, "desk": furniture.desk,
    "wardrobe": furniture.wardrobe, "shelf": furniture.shelf, "plant": decor.plant, "rug": decor.rug,
    "floor lamp": partial(decor.lamp, style="floor"), "small lamp": partial(decor.lamp, style="small"),
    "hanging lamp": partial(decor.lamp, style="hanging"), "door": decor.door, "picture": decor.picture,
    "window": partial(decor.window, sky=(0.5, 0.7, 0.9)),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILDERS)
def test_all_parts_lie_within_the_extent_of_the_piece_and_stand_on_its_bottom(
    name: str, rng: np.random.Generator
) -> None:
    for _ in range(20):
        piece = BUILDERS[name](rng)
        vertices = build([Placed(piece, 0, 0, 0, 0)]).vertices
        half = np.array([piece.width / 2, piece.height, piece.depth / 2])
        assert (np.abs(vertices) <= half + 1e-6).all()
        assert vertices[:, 1].min() >= 0
        assert vertices[:, 1].min() < 0.011


@pytest.mark.parametrize("name", BUILDERS)
def test_pieces_have_several_parts_and_vary_in_size_and_colour(name: str, rng: np.random.Generator) -> None:
    pieces = [BUILDERS[name](rng) for _ in range(30)]
    assert min(len(piece.solids) for piece in pieces) >= 2
    assert len({round(piece.width, 3) for piece in pieces}) > 20
    assert {piece.colour for piece in pieces} <= set(COLOURS)
    assert name == "plant" or len({piece.colour for piece in pieces}) >= 3
    assert {piece.kind for piece in pieces} == {name.split()[-1]}
