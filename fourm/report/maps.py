"""Maps as pictures: colours, depth, normals, labels and tokens, a pixel of the picture for a pixel of the value."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from fourm.report.arrays import to_array, to_bytes, to_pixels, to_planes
from fourm.report.colors import VOID_COLOR, color_scale, palette
from fourm.report.scale import Scale


def image(value: Any) -> Image.Image:
    """RGB, grey values or edges.

    Args:
        value: (3, H, W), (1, H, W) or (H, W), floats in [0, 1] (others are clipped) or uint8.

    Raises:
        ValueError: for another number of channels.
    """
    planes = to_planes(value)
    if planes.shape[0] not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels, not {planes.shape[0]}")
    if planes.dtype != np.uint8:
        planes = to_bytes(planes.astype(np.float64))
    return Image.fromarray(to_pixels(np.broadcast_to(planes, (3, *planes.shape[1:]))))


def measured(value: Any, scale: Scale) -> Image.Image:
    """Measured values, such as depth or temperatures, in a perceptual colour map.

    Args:
        value: (1, H, W) or (H, W) natural units; not finite values are black.
        scale: what the colours mean.
    """
    values = to_planes(value)[0]
    table = color_scale(scale.colors)
    rows = np.rint(scale.shares(values) * (len(table) - 1)).astype(int)
    return Image.fromarray(np.where(np.isfinite(values)[..., None], table[rows], np.uint8(0)))


def normals(value: Any) -> Image.Image:
    """Surface normals, x right, y up and z towards the viewer as red, green and blue.

    Args:
        value: (3, H, W) unit vectors; (0, 0, 1) is drawn (128, 128, 255).
    """
    planes = to_planes(value)
    if planes.shape[0] != 3:
        raise ValueError(f"normals have 3 channels, not {planes.shape[0]}")
    return Image.fromarray(to_pixels(to_bytes((planes.astype(np.float64) + 1) / 2)))


def labels(value: Any, num_classes: int) -> Image.Image:
    """A label map in the class palette.

    Args:
        value: (H, W) or (1, H, W) class ids; ids outside [0, num_classes), such as 255, are drawn black.
        num_classes: number of classes.
    """
    ids = to_planes(value)[0].astype(np.int64)
    table = np.concatenate([palette(num_classes), np.array([VOID_COLOR], dtype=np.uint8)])
    ids = np.where((ids >= 0) & (ids < num_classes), ids, num_classes)
    return Image.fromarray(table[ids])


def tokens(value: Any, shape: tuple[int, int] | None = None, *, vocab_size: int | None = None) -> Image.Image:
    """A token map: one square per token, each id in its own colour.

    Args:
        value: (N,) or (h, w) ids; negative ids (no token) are light grey.
        shape: (h, w) of a flat grid; a sequence is drawn in rows of 16.
        vocab_size: number of ids, to spread the colours.
    """
    ids = np.asarray(to_array(value)).astype(np.int64)
    if ids.ndim != 2:
        ids = ids.reshape(-1)
        if shape is not None and shape[0] * shape[1] == ids.size:
            ids = ids.reshape(shape)
        else:
            ids = np.pad(ids, (0, -ids.size % 16), constant_values=-1).reshape(-1, 16)
    table = palette(max(vocab_size or 0, int(ids.max(initial=0)) + 1))
    grey = np.array([225, 225, 225], dtype=np.uint8)
    return Image.fromarray(np.where((ids >= 0)[..., None], table[np.maximum(ids, 0)], grey))
