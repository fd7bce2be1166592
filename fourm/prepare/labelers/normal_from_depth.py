"""Surface normals that follow from depth and the camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data.encode import png
from fourm.modality import Modality
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.network_configs import NormalFromDepthConfig

_JUMP = 0.05  # share of the inverse depth by which a pixel differs from a neighbour that lies on another surface
_TOWARDS_VIEWER = (0.0, 0.0, 1.0)


class NormalFromDepth:
    """Photographs with depth to RGB pngs of normals."""

    def __init__(self, config: NormalFromDepthConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [png(encode_normals(self._normals(photo))) for photo in photos]

    def _normals(self, photo: Photo) -> NDArray[np.float64]:
        c = self.config
        depth = np.asarray(photo.label(c.depth), np.float64)
        if c.values == "relative" or (c.values == "auto" and is_relative(photo.modalities[c.depth])):
            inverse = inverse_of_relative(depth, c.farthest)
        else:
            inverse = np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
        longer = max(depth.shape)
        if c.focal_length is None:
            focal = longer / (2 * math.tan(math.radians(c.field_of_view) / 2))
        else:
            focal = c.focal_length * longer / max(photo.origin.width, photo.origin.height)
        return normals(inverse, focal)


def is_relative(modality: Modality) -> bool:
    """Whether depth is stored without unit, as the label `depth` does by default: then it counts per photograph.

    The normalization alone does not tell: training may standardise metres too. These have a range of their own.
    """
    return modality.normalization == "standardize" and modality.value_range in (None, (0.0, 1.0))


def inverse_of_relative(depth: NDArray[Any], farthest: float) -> NDArray[Any]:
    """Inverse depth, 1 at the nearest point and 1 / `farthest` at the farthest, of relative depth (H, W) in [0, 1]."""
    return 1 - depth * (1 - 1 / farthest)


def normals(inverse: NDArray[np.float64], focal: float) -> NDArray[np.float64]:
    """Unit normals on the viewer's side of surfaces before a pinhole camera whose axis meets the middle of the image.

    A plane n . p = 1, with p = z (x, y, 1), has the inverse depth 1 / z = n . (x, y, 1). That is linear in the image,
    so that n follows exactly from its differences.

    Args:
        inverse: (H, W) inverse depth in any unit; 0 or less where it is not known.
        focal: focal length in pixels.

    Returns:
        (H, W, 3): x right, y up, z towards the viewer; straight towards the viewer where nothing is known.
    """
    height, width = inverse.shape
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height) + 0.5 - height / 2)[:, None] / focal  # down, as rows go
    along, down = (slope(inverse, axis) * focal for axis in (1, 0))
    found = np.stack([-along, down, inverse - x * along - y * down], axis=-1)
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    known = (inverse[..., None] > 0) & (length > 0)
    return np.where(known, found / np.where(known, length, 1), _TOWARDS_VIEWER)


def slope(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Differences per pixel along an axis: to both neighbours, but only to the closer value where surfaces end.

    Args:
        values: (H, W).
    """
    if values.shape[axis] == 1:
        return np.zeros_like(values)
    steps = np.diff(values, axis=axis)
    first, last = np.take(steps, [0], axis), np.take(steps, [-1], axis)
    before, after = np.concatenate([first, steps], axis), np.concatenate([steps, last], axis)
    ends = np.abs(after - before) > _JUMP * np.abs(values)
    closer = np.where(np.abs(before) < np.abs(after), before, after)
    return np.where(ends, closer, (before + after) / 2)


def encode_normals(vectors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Unit vectors (H, W, 3) as `decode: normal` reads them: round((n + 1) / 2 * 255)."""
    return np.rint((vectors + 1) / 2 * 255).astype(np.uint8)
