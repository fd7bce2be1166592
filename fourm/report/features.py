"""Feature maps and vectors as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fourm.report.arrays import to_array, to_bytes, to_pixels, to_planes
from fourm.report.colors import Array
from fourm.report.maps import image

_MOST_PLACES = 1024
"""Places that principal components are computed from; more of them hardly change a colour."""


def features(value: Any, like: Any = None) -> Image.Image:
    """A feature map by its three principal components, as red, green and blue; a single vector as a square of greys.

    Args:
        value: (C, H, W) floats.
        like: features, or several of the same number of channels, whose components and range are used, so that pictures
            can be compared; None: the value's own.
    """
    planes = _finite(to_planes(value))
    channels, height, width = planes.shape
    reference = _places([value] if like is None else _several(like))
    if reference.shape[1] != channels:
        raise ValueError(f"{channels} channels are to be drawn like features of {reference.shape[1]}")
    if height * width == 1:
        side = math.isqrt(channels - 1) + 1
        cells = np.pad(planes.ravel(), (0, side**2 - channels), constant_values=reference.min()).reshape(1, side, side)
        return image((cells - reference.min()) / max(np.ptp(reference), 1e-9))
    center, directions = _components(reference)
    parts, known = ((rows - center) @ directions for rows in (planes.reshape(channels, -1).T, reference))
    low, high = known.min(axis=0), known.max(axis=0)
    shares = (parts - low) / np.maximum(high - low, 1e-9)
    return Image.fromarray(to_pixels(to_bytes(shares.T.reshape(3, height, width))))


def _components(rows: Array) -> tuple[Array, Array]:
    """Mean (C,) and the three principal directions (C, 3) of (N, C) vectors; directions that do not exist are 0."""
    center = rows.mean(axis=0)
    directions = np.linalg.svd(rows - center, full_matrices=False)[2][:3]
    # The sign of a component is arbitrary: its largest entry is made positive, so that pictures are reproducible.
    strongest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = (directions * np.sign(strongest)).T
    return center, np.pad(directions, ((0, 0), (0, 3 - directions.shape[1])))


def _several(like: Any) -> Sequence[Any]:
    """One feature map or many as many."""
    if isinstance(like, list | tuple):
        return like
    maps = to_array(like)
    return list(maps) if maps.ndim == 4 else [maps]


def _places(maps: Sequence[Any]) -> Array:
    """(N, C) vectors at all places of several feature maps."""
    rows = np.concatenate([_finite(to_planes(m)).reshape(len(to_planes(m)), -1).T for m in maps])
    return rows[:: -(-len(rows) // _MOST_PLACES)]


def _finite(planes: Array) -> Array:
    return np.nan_to_num(planes.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
