"""Pinhole cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """Where one looks from and to.

    Args:
        position: (3,) metres.
        axes: (3, 3) rows are the unit vectors right, up and forward of the image in the room.
        slope: tangent of half the field of view (square images).
    """

    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    slope: float

    def directions(self, size: int, samples: int = 1) -> NDArray[np.float64]:
        """Ray directions whose component along the optical axis is 1, so that distances along them are z-depths.

        Args:
            size: pixels per side.
            samples: rays per pixel and axis, at the centres of equal cells.

        Returns:
            (size * size * samples**2, 3); samples of one pixel lie together.
        """
        cells = ((np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1) * self.slope
        cells = cells.reshape(size, samples)
        right, up, forward = self.axes
        across = cells[None, :, None, :, None] * right
        down = forward - cells[:, None, :, None, None] * up
        return (across + down).reshape(-1, 3)

    def to_camera(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Turn (N, 3) directions of the room into camera space: x right, y up, z towards the viewer."""
        right, up, forward = self.axes
        return np.stack([_dot(vectors, right), _dot(vectors, up), -_dot(vectors, forward)], axis=-1)


def _dot(vectors: NDArray[Any], axis: NDArray[Any]) -> NDArray[Any]:
    # Not a matrix product: those may sum in another order on another number of threads.
    return vectors[..., 0] * axis[0] + vectors[..., 1] * axis[1] + vectors[..., 2] * axis[2]


def look_at(position: NDArray[np.float64], target: NDArray[np.float64], roll: float, field_of_view: float) -> Camera:
    """A camera at `position` with `target`, which is not straight above or below it, in the middle of its image.

    Args:
        roll, field_of_view: radians; the field of view from edge to edge.
    """
    # In plain numbers: numpy takes far longer for three of them.
    x, y, z = (float(value) for value in target - position)
    length, flat = math.sqrt(x * x + y * y + z * z), math.hypot(x, z)
    forward = np.array([x, y, z]) / length
    right = np.array([-z, 0.0, x]) / flat
    up = np.array([-x * y, flat * flat, -z * y]) / (flat * length)
    c, s = math.cos(roll), math.sin(roll)
    return Camera(position, np.stack([c * right + s * up, c * up - s * right, forward]), math.tan(field_of_view / 2))
