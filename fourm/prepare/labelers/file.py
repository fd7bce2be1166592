"""Files of the user's beside each photograph, as labels: checked, and in a form that training reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError

from fourm.data.decode import decoder_of
from fourm.data.geometry import whole
from fourm.data.transforms import RESAMPLING, crop_resize
from fourm.data.unpack import unzip
from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.prepare.encode import jpg, png
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.rasters import as_stored, read
from fourm.prepare.labelers.user_configs import PICTURES, FileConfig
from fourm.prepare.photos.names import beside, split
from fourm.prepare.upright import turn_for, turn_normals, turn_pixels

_IN_PIXELS = ("poses", "crop_settings")


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
            self._check(decoder_of(self.modality)(stored, self.modality))
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
        return unzip(data)

    def _check(self, value: Any) -> None:
        """What decoders leave to those who wrote the file.

        Raises:
            DataError: for boxes in pixels, or of unknown classes.
        """
        if self.modality.decode != "boxes":
            return
        for instance in value:
            if not all(-0.01 <= corner <= 1.01 for corner in instance["boxes"]):
                raise DataError(f"a box is {instance['boxes']}; expected x1, y1, x2, y2 in shares of the picture")
            name = instance["class_name"]
            if self.modality.classes and name not in self.modality.classes:
                hint = did_you_mean(name, self.modality.classes)
                raise DataError(f"class_name '{name}' is not one of the modality's classes.{hint}")


def _resize(pixels: Any, size: tuple[int, int], decode: str) -> Any:
    if pixels.dtype.itemsize == 1:
        return crop_resize(pixels, whole(pixels.shape[:2]), size, RESAMPLING[decode])
    # 16 bits are resized as 32 and rounded: ids stay ids, since theirs are not mixed.
    exact = RESAMPLING[decode] == Image.Resampling.NEAREST
    small = crop_resize(pixels.astype("int32" if exact else "float32"), whole(pixels.shape), size, RESAMPLING[decode])
    return small.round().astype(pixels.dtype)
