"""Some patches of a photograph that is to be cropped and resized, without resizing the rest of it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from fourm.data.geometry import Geometry
from fourm.layouts import Grid

WORTH_IT = 0.25
"""Share of the patches up to which they are faster made one by one."""
_SUPPORT = 2.0  # pixels that a bicubic filter reaches to each side
_SHARPNESS = -0.5  # of the filter, as Pillow has it


def resized_patches(
    pixels: NDArray[np.uint8], geometry: Geometry, grid: Grid, positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What the patches of the cropped, resized and mirrored image are: bicubic with antialiasing, in whole levels.

    Args:
        pixels: (H, W, 3) before the crop.
        geometry: box and flip.
        grid: of the resized image.
        positions: (n,) places in it.

    Returns:
        (n, p, p, 3) whole numbers from 0 to 255. They differ from `transforms.crop_resize` by rounding alone.

    Raises:
        ValueError: if the image has another shape than the geometry was drawn for.
    """
    top, left, bottom, right = geometry.box_in((pixels.shape[0], pixels.shape[1]))
    box = pixels[top:bottom, left:right]
    (height, width), p = grid.image_size, grid.patch_size
    rows, columns = positions // grid.width, positions % grid.width
    if geometry.hflip:
        columns = grid.width - 1 - columns
    down, first_row = _filters(box.shape[0], height, p)
    across, first_column = _filters(box.shape[1], width, p)
    tall, wide = down.shape[2], across.shape[2]
    # Every window of the box, of which the patches' own are copied.
    step, pixel = box.strides[0], box.strides[1]
    shape = (box.shape[0] - tall + 1, box.shape[1] - wide + 1, tall, wide, 3)
    windows = as_strided(box, shape, (step, pixel, step, pixel, box.strides[2]), writeable=False)
    seen = windows[first_row[rows], first_column[columns]].astype(np.float32)
    # As in Pillow, lines come first, and what is between the two passes is whole levels too.
    lines = _levels(across[columns][:, None] @ seen).reshape(len(positions), tall, -1)
    found = _levels(down[rows] @ lines).reshape(len(positions), p, p, 3)
    return found[:, :, ::-1] if geometry.hflip else found


def _levels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values)


@lru_cache(maxsize=1024)
def _filters(size: int, resized: int, patch: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """How the pixels of each patch come about along one side.

    Returns:
        weights (patches, p, reach) of the pixels that follow the first one, and the first one (patches,).
    """
    scale = size / resized
    stretch = max(scale, 1.0)
    centres = (np.arange(resized) + 0.5) * scale
    low = np.maximum((centres - _SUPPORT * stretch + 0.5).astype(np.int64), 0).reshape(-1, patch)
    high = np.minimum((centres + _SUPPORT * stretch + 0.5).astype(np.int64), size).reshape(-1, patch)
    reach = int((high.max(1) - low.min(1)).max())
    first = np.minimum(low.min(1), size - reach)
    places = first[:, None, None] + np.arange(reach)
    weights = _bicubic((places - centres.reshape(-1, patch, 1) + 0.5) / stretch)
    weights[(places < low[..., None]) | (places >= high[..., None])] = 0.0
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32), first


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic convolution kernel (Keys 1981)."""
    x, a = np.abs(x), _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < _SUPPORT, far, 0.0))
