"""Light is averaged within one surface and never across its edges."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.prepare.rooms.shapes import Mesh
from fourm.prepare.rooms.smooth import Smoother

SIZE, SAMPLES = 4, 2
PLANES = Mesh(
    vertices=np.zeros((3, 3)),
    faces=np.zeros((3, 3), np.int32),
    normals=np.array([(0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]),
    piece=np.array([0, 1, 1], np.int32),
    colour=np.zeros((3, 3), np.float32),
    glow=np.zeros(3, np.float32),
)


def halves(left: int, right: int) -> np.ndarray:
    """The triangle each sample sees: one in the left half of the picture, another in the right half."""
    whole = np.full((SIZE, SIZE, SAMPLES, SAMPLES), left)
    whole[:, SIZE // 2 :] = right
    return whole.reshape(-1)


def test_a_constant_stays_one() -> None:
    values = np.full(SIZE**2 * SAMPLES**2, 0.3, np.float32)
    np.testing.assert_allclose(Smoother(PLANES, halves(0, 1), SAMPLES)(values), values, rtol=1e-6)


def test_noise_on_one_surface_becomes_less(rng: np.random.Generator) -> None:
    noise = rng.random(SIZE**2 * SAMPLES**2).astype(np.float32)
    smooth = Smoother(PLANES, halves(0, 0), SAMPLES)(noise)
    assert smooth.std() < 0.5 * noise.std()
    assert smooth.mean() == pytest.approx(noise.mean(), abs=0.05)


@pytest.mark.parametrize("right", [1, 2], ids=["another piece", "another orientation"])
def test_nothing_crosses_an_edge(right: int) -> None:
    triangle = halves(1 if right == 2 else 0, right)
    values = (triangle == right).astype(np.float32)
    np.testing.assert_allclose(Smoother(PLANES, triangle, SAMPLES)(values), values, atol=1e-6)
