"""One file of a user's as an upright RGB photograph, or the reason why it is none."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from fourm.data.images import open_image
from fourm.errors import DataError
from fourm.prepare.labelers.base import TURNED, Origin
from fourm.prepare.photos.recipe import ImageConfig

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_STILLS = ("JPEG", "MPO")  # MPO is what phones call a photograph with another one behind it
_REDUCED = 2  # a JPEG is decoded at this many times the final size, or more


class Loaded(NamedTuple):
    """A photograph ready to be stored.

    Args:
        image: RGB.
        alpha: (H, W) opacity; None if it is opaque.
        origin: what is noted of its file.
    """

    image: Image.Image
    alpha: NDArray[np.uint8] | None
    origin: Origin


def load(data: bytes, file: str, config: ImageConfig) -> Loaded:
    """Decode a photograph, turn it upright, make it RGB in sRGB, and as small as the config says.

    Args:
        data: the bytes of its file.
        file: name of the file, noted in its origin.
        config: sizes, and what to do with unusual files.

    Raises:
        DataError: if it is not a photograph, damaged, too large or too small; says which.
    """
    if not data:
        raise DataError("the file is empty (0 bytes)")
    try:
        with _own_limits(), open_image(data) as opened:
            return _load(opened, file, config)
    except UnidentifiedImageError:
        raise DataError(f"not an image, or of a kind that is not known: it begins with {data[:8]!r}") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
        raise DataError(f"damaged: {str(error).strip() or type(error).__name__}") from None


@contextmanager
def _own_limits() -> Iterator[None]:
    """Pillow neither warns of damaged metadata nor judges sizes: `max_pixels` is checked before anything is decoded."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _load(image: Image.Image, file: str, config: ImageConfig) -> Loaded:
    size = image.size
    if size[0] * size[1] > config.max_pixels:
        raise DataError(
            f"{size[0]} x {size[1]} pixels are more than image.max_pixels, {config.max_pixels:,}; raise it where such "
            "files are meant"
        )
    if min(size) < config.min_side:
        raise DataError(f"{size[0]} x {size[1]} pixels; image.min_side asks for {config.min_side} on a side")
    notes = _unusual(image)
    if notes and config.unusual == "reject":
        raise DataError(f"{', '.join(notes)}; image.unusual: convert takes such files")
    orientation = image.getexif().get(_ORIENTATION, 1)
    small = _smaller(size, config.size)
    if image.format in _STILLS and small != size:
        image.draft(None, (_REDUCED * small[0], _REDUCED * small[1]))
    picture = _eight_bit(image)
    if picture.size != small:
        picture = picture.resize(small, Image.Resampling.BICUBIC)
    alpha = _opacity(picture)
    picture = _to_rgb(picture, image.info.get("icc_profile"))
    if alpha is not None:
        behind = Image.new("RGB", small, config.background)
        behind.paste(picture, mask=alpha)
        picture = behind
    if orientation in _TURNS:
        notes.append(TURNED.format(orientation))
        picture = picture.transpose(_TURNS[orientation])
        alpha = None if alpha is None else alpha.transpose(_TURNS[orientation])
        size = size[::-1] if orientation in _SIDEWAYS else size
    return Loaded(picture, None if alpha is None else np.asarray(alpha), Origin(file, *size, tuple(notes)))


def _unusual(image: Image.Image) -> list[str]:
    """What is not plain about a file, in words."""
    notes = []
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        notes.append(f"animated ({getattr(image, 'n_frames', 1)} pictures, the first taken)")
    if image.mode == "CMYK":
        notes.append("converted from CMYK")
    if image.mode in _SIXTEEN_BIT or ";16" in str(getattr(image, "tile", "")):
        notes.append("converted from 16 bits")
    if image.mode == "F":
        raise DataError("values are fractions (32-bit floating point): measurements, not a photograph")
    return notes


def _smaller(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The size with `shorter` pixels on the shorter side, unless it is smaller already."""
    least = min(size)
    if not shorter or least <= shorter:
        return size
    width, height = (max(1, round(side * shorter / least)) for side in size)
    return width, height


def _eight_bit(image: Image.Image) -> Image.Image:
    """The decoded image in a mode that can be resized: L, LA, RGB, RGBA or CMYK."""
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("values beyond 16 bits: measurements, not a photograph")
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("PA", "LA", "RGBa", "La"):
        return image.convert("RGBA")
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        return image.convert("L" if image.mode == "1" else "RGB")
    image.load()
    return image


def _opacity(picture: Image.Image) -> Image.Image | None:
    """The opacity of a picture that is transparent somewhere."""
    if picture.mode != "RGBA":
        return None
    alpha = picture.getchannel("A")
    return None if alpha.getextrema()[0] == 255 else alpha


def _to_rgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours in sRGB: wide-gamut photographs, as phones make them, would look pale otherwise."""
    if picture.mode == "RGBA":
        picture = picture.convert("RGB")
    if profile:
        transform = _transform(profile, picture.mode)
        if transform is not None:
            return ImageCms.applyTransform(picture, transform) or picture
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where nothing is to be done, or the profile is damaged."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
