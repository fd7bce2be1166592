"""Smoothing of noisy light within one surface."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.shapes import Mesh

_SHIFTS = (1, 2, 3)


class Smoother:
    """Averages a value over neighbouring samples of the same surface.

    A few random rays per sample are noisy; light on one surface varies slowly. Edges stay sharp, since samples of other
    pieces or other orientations never mix.

    Args:
        mesh: the scene.
        triangle: (N,) what each sample sees, in the order of `Camera.directions`.
        samples: samples per pixel and axis.
    """

    def __init__(self, mesh: Mesh, triangle: NDArray[np.int64], samples: int) -> None:
        self.samples = samples
        self.pixels = round(len(triangle) ** 0.5) // samples
        directions = np.round(mesh.normals * 3 + 3).astype(np.int32)
        surface = ((mesh.piece * 7 + directions[:, 0]) * 7 + directions[:, 1]) * 7 + directions[:, 2]
        grid = self._to_grid(surface[triangle])
        self.same = {
            (axis, shift): np.equal(*_shifted(grid, axis, shift)).astype(np.float32)
            for axis in (0, 1)
            for shift in _SHIFTS
        }
        self.weights = []
        for axis in (0, 1):
            weight = np.ones(grid.shape, np.float32)
            for shift in _SHIFTS:
                for part in _shifted(weight, axis, shift):
                    part += self.same[axis, shift]
            self.weights.append(weight)

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Smooth (N,) values, first down, then across."""
        grid = self._to_grid(values)
        for axis in (0, 1):
            total = grid.copy()
            for shift in _SHIFTS:
                same = self.same[axis, shift]
                near, far = _shifted(grid, axis, shift)
                near_total, far_total = _shifted(total, axis, shift)
                near_total += far * same
                far_total += near * same
            grid = total / self.weights[axis]
        side = (self.pixels, self.samples, self.pixels, self.samples)
        return grid.reshape(side).transpose(0, 2, 1, 3).reshape(-1)

    def _to_grid(self, values: NDArray[Any]) -> NDArray[Any]:
        """Samples at their places in the picture."""
        pixels, samples = self.pixels, self.samples
        grid = values.reshape(pixels, pixels, samples, samples).transpose(0, 2, 1, 3)
        return grid.reshape(pixels * samples, pixels * samples)


def _shifted(grid: NDArray[Any], axis: int, shift: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two views of a grid, the second `shift` further along `axis`."""
    return (grid[:-shift], grid[shift:]) if axis == 0 else (grid[:, :-shift], grid[:, shift:])
