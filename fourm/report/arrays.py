"""Values of any kind as arrays: what every picture starts from."""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm.report.colors import Array


def to_array(value: Any) -> Array:
    """A numpy array of a tensor (any device) or array; torch is not imported for it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    return np.asarray(value)


def to_planes(value: Any) -> Array:
    """(C, H, W) of (C, H, W), (H, W), (H, W, 3) bytes or a batch of one."""
    planes = to_array(value)
    if planes.ndim == 4 and planes.shape[0] == 1:
        planes = planes[0]
    if planes.ndim == 2:
        planes = planes[None]
    if planes.ndim != 3:
        raise ValueError(f"expected (channels, height, width), got {planes.ndim} dimensions")
    if planes.dtype == np.uint8 and planes.shape[-1] in (1, 3) and planes.shape[0] not in (1, 3):
        planes = planes.transpose(2, 0, 1)
    return planes


def to_bytes(shares: Array) -> Array:
    """Shares in [0, 1] as bytes, half rounded up; not a number is 0."""
    scaled = np.nan_to_num(np.clip(shares, 0.0, 1.0), nan=0.0) * 255
    return np.asarray(np.floor(scaled + 0.5), dtype=np.uint8)


def to_pixels(planes: Array) -> Array:
    """(H, W, C) of (C, H, W), contiguous."""
    return np.ascontiguousarray(planes.transpose(1, 2, 0))
