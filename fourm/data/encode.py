"""Values as the bytes of files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def npy(array: NDArray[Any]) -> bytes:
    """An array as `.npy`, without pickles."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    """Named arrays as compressed `.npz`, without pickles; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def png(image: NDArray[Any]) -> bytes:
    """An image (H, W[, 3]), 8-bit or 16-bit grey, as png."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def jpg(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W[, 3]), 8-bit, as jpg that hardly loses."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
