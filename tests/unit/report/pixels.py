"""Small pictures and their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def pixel(picture: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return tuple(int(c) for c in np.asarray(picture)[y, x])


def plane(*channels: float, size: int = 4) -> np.ndarray[Any, Any]:
    return np.broadcast_to(np.array(channels)[:, None, None], (len(channels), size, size)).astype(np.float32)
