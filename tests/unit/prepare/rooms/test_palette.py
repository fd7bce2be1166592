from __future__ import annotations

import numpy as np
import pytest

from fourm.prepare.rooms.palette import COLOURS, FABRICS, WOODS, choose, linear, shade, tint


def test_black_and_white_are_the_ends_of_linear_reflectance() -> None:
    assert linear((0, 0, 0)) == (0, 0, 0)
    assert linear((255, 255, 255)) == (1, 1, 1)


@pytest.mark.parametrize("name", sorted(COLOURS))
def test_most_shades_of_a_colour_are_nearest_to_that_colour(name: str, rng: np.random.Generator) -> None:
    reference = {other: np.array(rgb) for other, rgb in COLOURS.items()}
    shades = [np.array(tint(rng, name)) ** (1 / 2.2) * 255 for _ in range(100)]
    nearest = [min(reference, key=lambda other: np.linalg.norm(reference[other] - rgb)) for rgb in shades]
    assert nearest.count(name) > 75


def test_a_darker_version_is_darker_and_a_lighter_one_stays_below_one() -> None:
    assert shade((0.4, 0.2, 0.1), 0.5) == (0.2, 0.1, 0.05)
    assert max(shade((0.9, 0.9, 0.9), 3.0)) < 1


def test_materials_have_colours_with_names(rng: np.random.Generator) -> None:
    assert set(FABRICS + WOODS) <= set(COLOURS)
    assert choose(rng, FABRICS)[0] in FABRICS
