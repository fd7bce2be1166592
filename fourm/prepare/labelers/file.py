"""Files of the user's beside each photograph, as labels: checked, and in a form that training reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fourm.data.decode import decoder_of, text
from fourm.data.encode import jpg, png
from fourm.data.facts import boxes
from fourm.data.geometry import whole
from fourm.data.transforms import RESAMPLING, crop_resize
from fourm.data.unpack import unzip
from fourm.errors import ConfigError, DataError
from fourm.modality import Modality
from fourm.prepare.checks import VOID_NORMAL, Around, find_faults, without_control
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.file_configs import PICTURES, FileConfig
from fourm.prepare.labelers.normal_from_depth import encode_normals
from fourm.prepare.labelers.rasters import as_stored, read
from fourm.prepare.photos.names import beside, split
from fourm.prepare.upright import turn_for, turn_normals, turn_pixels

_IN_PIXELS = ("poses", "crop_settings")
_OVER_THE_EDGE = 0.01


class File:
    """Photographs to the files beside them: the same bytes, where these are right for the modality."""

    def __init__(self, config: FileConfig, device: str) -> None:
        self.config = config
        self.modality = config.modality("label")

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [self._label(photo) for photo in photos]

    def _label(self, photo: Photo) -> bytes:
        name = beside(self.config.file, split(photo.origin.file)[0])
        data = photo.beside.get(self.config.file)
        if data is None:
            itself = ", but for the photograph itself" if name == photo.origin.file else ""
            raise DataError(f"there is no file {name}{itself}")
        try:
            stored = self._picture(data, photo) if self.modality.decode in PICTURES else self._other(data, photo)
            self._refuse_faults(decoder_of(self.modality)(stored, self.modality), stored)
        except (ConfigError, MemoryError):
            raise
        except UnidentifiedImageError:  # whose own words hold an address in memory
            raise DataError(f"{name}: not an image; it begins with {data[:8]!r}") from None
        except Exception as error:
            raise DataError(f"{name}: {str(error).strip() or type(error).__name__}") from None
        return stored

    def _picture(self, data: bytes, photo: Photo) -> bytes:
        """An image on the photograph: turned with it, and no larger."""
        c, decode = self.config, self.modality.decode
        turn = 1

        def check(size: tuple[int, int]) -> None:  # before it is decoded
            nonlocal turn
            turn = turn_for(size, photo.origin, c.orientation)

        colours = "RGB" if c.colors else {"image": "RGB", "gray": "L"}.get(decode, "")
        drawn = read(data, check, colours)
        pixels, changed = as_stored(drawn, self.modality, c)
        for orientation in (drawn.orientation, turn):
            if orientation != 1:
                changed = True
                pixels = (turn_normals if decode == "normal" else turn_pixels)(pixels, orientation)
        size = photo.image.shape[:2]
        if decode == "normal":  # before it is made smaller, which gives anything the length of normals
            self._refuse_faults(pixels, b"")
        if c.resize and (pixels.shape[0] > size[0] or pixels.shape[1] > size[1]):
            changed = True
            pixels = _resize(pixels, size, decode)
        if not changed and drawn.form == {"png": "PNG", "jpg": "JPEG"}[c.extension]:
            return data
        return jpg(pixels) if c.extension == "jpg" else png(pixels)

    def _other(self, data: bytes, photo: Photo) -> bytes:
        height, width = photo.image.shape[:2]
        if self.modality.decode in _IN_PIXELS and (photo.origin.height, photo.origin.width) != (height, width):
            raise DataError(
                f"its numbers are pixels of the stored photograph, {width} x {height}, which was made smaller: set "
                "image.size: 0"
            )
        data = unzip(data)
        change = {"boxes": _inside, "text": _readable}.get(self.modality.decode)
        return data if change is None else change(data, self.modality)

    def _refuse_faults(self, value: Any, data: bytes) -> None:
        """See that `fourm prepare verify` will find nothing wrong with a file.

        Raises:
            DataError: for what decoders leave to those who wrote it: boxes without an area, unknown classes, ...
        """
        for fault in find_faults(value, self.modality, data, Around()):
            raise DataError(fault)


def _inside(data: bytes, modality: Modality) -> bytes:
    """Boxes cut off at the edges of the picture, over which those who draw them reach by a pixel.

    Raises:
        DataError: for boxes in pixels.
    """
    found = boxes(data, modality)
    cut = []
    for instance in found:
        corners = [float(corner) for corner in instance["boxes"]]
        if not all(-_OVER_THE_EDGE <= corner <= 1 + _OVER_THE_EDGE for corner in corners):
            raise DataError(f"a box is {instance['boxes']}; expected x1, y1, x2, y2 in shares of the picture")
        cut.append({**instance, "boxes": [min(max(corner, 0.0), 1.0) for corner in corners]})
    return data if cut == found else json.dumps({"instances": cut}).encode()


def _readable(data: bytes, modality: Modality) -> bytes:
    """Texts without control characters."""
    found = text(data, modality)
    clean = without_control(found) if isinstance(found, str) else [without_control(one) for one in found]
    return data if clean == found else json.dumps(clean).encode()


def _resize(pixels: Any, size: tuple[int, int], decode: str) -> Any:
    if pixels.dtype.itemsize == 1:
        small = crop_resize(pixels, whole(pixels.shape[:2]), size, RESAMPLING[decode])
        return _unit(small) if decode == "normal" else small
    # 16 bits are resized as 32 and rounded: ids stay ids, since theirs are not mixed.
    exact = RESAMPLING[decode] == Image.Resampling.NEAREST
    small = crop_resize(pixels.astype("int32" if exact else "float32"), whole(pixels.shape), size, RESAMPLING[decode])
    return small.round().astype(pixels.dtype)


def _unit(normals: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Normals (H, W, 3), 8-bit, with length 1 again, which means of several have not; unknown ones stay."""
    vectors = normals / 127.5 - 1
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    known = lengths > VOID_NORMAL
    return encode_normals(np.where(known, vectors / np.where(known, lengths, 1), vectors))
