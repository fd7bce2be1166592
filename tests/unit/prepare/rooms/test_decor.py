"""Lamps, rugs, plants and what hangs on walls."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.prepare.rooms import decor
from fourm.prepare.rooms.shapes import SHAPES, Piece

SKY = (0.5, 0.7, 0.9)


def column(piece: Piece, first: int, last: int | None = None) -> np.ndarray:
    """Columns of the solids: 1-3 centre, 4-6 size, 9-11 colour, 12 glow."""
    return np.array(piece.solids)[:, first : last or first + 1]


def test_a_rug_is_too_low_to_stumble_over(rng: np.random.Generator) -> None:
    for _ in range(20):
        rug = decor.rug(rng)
        assert rug.height == decor.RUG_HEIGHT
        assert {SHAPES[int(shape)] for shape in column(rug, 0).ravel()} <= {"disc", "mat"}


@pytest.mark.parametrize("build", [decor.door, decor.picture, lambda rng: decor.window(rng, SKY)])
def test_what_hangs_on_a_wall_is_flat(build, rng: np.random.Generator) -> None:
    assert all(build(rng).depth <= decor.WALL_DEPTH for _ in range(20))


def test_a_window_shows_the_sky_and_shines_by_itself(rng: np.random.Generator) -> None:
    for _ in range(20):
        window = decor.window(rng, SKY)
        pane = np.array(window.solids[0])
        np.testing.assert_allclose(pane[9:12], SKY)
        assert pane[12] == 1.0
        assert pane[4:6].tolist() == [window.width, window.height]


@pytest.mark.parametrize(("style", "low", "high"), [("floor", 1.35, 1.8), ("small", 0.42, 0.62), ("hanging", 0.7, 1.0)])
def test_lamps_have_the_height_of_their_style_and_most_are_lit(
    style: str, low: float, high: float, rng: np.random.Generator
) -> None:
    lamps = [decor.lamp(rng, style) for _ in range(60)]
    assert all(low <= lamp.height <= high for lamp in lamps)
    lit = [lamp for lamp in lamps if column(lamp, 12).any()]
    assert 0.5 < len(lit) / len(lamps) < 0.95
    assert all((column(lamp, 12) > 0).sum() == 1 for lamp in lit), "only the shade glows"


def test_a_hanging_lamp_reaches_up_to_its_ceiling(rng: np.random.Generator) -> None:
    for _ in range(20):
        lamp = decor.lamp(rng, "hanging")
        tops = column(lamp, 2) + np.abs(column(lamp, 5)) / 2
        assert tops.max() == pytest.approx(lamp.height)


def test_plants_are_a_pot_and_many_leaves(rng: np.random.Generator) -> None:
    for _ in range(20):
        shapes = [SHAPES[int(shape)] for shape in column(decor.plant(rng), 0).ravel()]
        assert shapes[0] == "cone"
        assert shapes.count("leaf") in (18, 40)
