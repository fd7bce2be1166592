"""The one way in which images from outside are opened: a file does not choose among all of Pillow's decoders."""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fourm.errors import DataError

# EPS runs Ghostscript; ICO and ICNS decode before their size can be judged; others are drawings, or hardly ever
# photographs. JPEG covers MPO, what phones call a photograph with another one behind it. TGA has no mark at its
# beginning, so it comes last.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"),
    *("QOI", "SGI", "DIB", "TGA"),
)
_MARK = 16  # bytes by which a format is known
_JPEG = b"\xff\xd8\xff"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of what begins with the size of a JPEG."""
_MOST_PIXELS = 2**24
"""Of what is not left to Pillow, which refuses images that would fill the memory."""
_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""Markers of what may come before: tables, comments, the facts of cameras and programs."""


def open_image(data: bytes) -> Image.Image:
    """Open an image of the formats that are read. Nothing is decoded yet.

    Args:
        data: its file.

    Raises:
        DataError: if it is of another format.
        UnidentifiedImageError: if it is no image. Pillow raises anything on damaged files.
    """
    try:
        return Image.open(io.BytesIO(data), formats=_known())
    except UnidentifiedImageError:
        if other := _other_format(data[:_MARK]):
            raise DataError(
                f"it holds {other}, whatever its name says, which is not read: only {', '.join(_known())} are. Convert "
                "it to png"
            ) from None
        raise


def rgb_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode an image of any format that is read, as Pillow would.

    JPEGs of photographs are decoded by simplejpeg where it is installed: the same pixels in two thirds of the time.

    Returns:
        (H, W, 3) RGB.

    Raises:
        DataError, UnidentifiedImageError: as `open_image` does. Pillow raises anything on damaged files.
    """
    frame, fast = _jpeg_frame(data), _simplejpeg()
    if fast is not None and frame is not None and frame[2] == 3 and frame[0] * frame[1] <= _MOST_PIXELS:
        with contextlib.suppress(ValueError):  # a damaged one, of which Pillow says more
            return fast.decode_jpeg(data, "RGB")  # type: ignore[no-any-return]
    with open_image(data) as file:
        return np.asarray(file if file.mode == "RGB" else file.convert("RGB"))


@lru_cache(maxsize=1)
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # where there are no wheels of it
        return None
    return simplejpeg  # type: ignore[no-any-return]


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG, many times as fast as opening it; None where its beginning is of another form."""
    frame = _jpeg_frame(data)
    return None if frame is None else frame[:2]


def _jpeg_frame(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) of a JPEG, as its beginning tells them."""
    if not data.startswith(_JPEG):
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return (height, width, data[at + 9]) if height and width else None
        if marker not in _SEGMENTS:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


@lru_cache(maxsize=1)
def _known() -> tuple[str, ...]:
    """The formats that this Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _other_format(start: bytes) -> str | None:
    """The format that is not read of a file that begins so; None if Pillow knows none."""
    for name, (_, accept) in Image.OPEN.items():
        with contextlib.suppress(Exception):  # of beginnings that are too short
            if name not in _FORMATS and accept is not None and accept(start) is True:
                return name
    return None
