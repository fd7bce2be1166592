"""What users' images and arrays hold, as the files of a modality hold it: ids, levels of 16 bits, 8-bit colours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fourm.data.decode import VOID
from fourm.data.images import open_image
from fourm.data.unpack import NPY, read_npy
from fourm.errors import DataError
from fourm.modality import Modality
from fourm.prepare.labelers.file_configs import LABEL_MAPS, FileConfig, class_id, parse_color

_ORIENTATION = 0x0112
_FULL = 65535
_SIDEWAYS = (5, 6, 7, 8)
_READABLE = {
    "labels": ("L", "P", "1", "I;16", "I"),
    "labels_void_first": ("L", "P", "1", "I;16", "I"),
    "depth16": ("I;16",),
    "normal": ("RGB",),
    "image": ("RGB", "RGBA", "CMYK", "YCbCr"),  # a grey one would be taken for a map of something
    "gray": ("L", "LA", "P", "1"),
}
"""Decoder -> modes of images that are stored as they are."""


class Drawn(NamedTuple):
    """A label as it is in its file.

    Args:
        values: (H, W) or (H, W, channels).
        form: `npy`, or what Pillow calls the format: `PNG`, `JPEG`.
        mode: of images, as Pillow calls it.
        orientation: EXIF's, of the label itself.
    """

    values: NDArray[Any]
    form: str
    mode: str = ""
    orientation: int = 1


def read(data: bytes, check: Callable[[tuple[int, int]], None], convert: str = "") -> Drawn:
    """Read an image or an array.

    Args:
        data: its file.
        check: called with (height, width), as it is to be seen, before an image is decoded.
        convert: colours count, also those of a palette: `RGB`, or as grey `L`.

    Raises:
        DataError: for 16-bit images whose colours are asked for.
        ValueError: for arrays of objects, or that are no pictures. Pillow raises anything on damaged images.
    """
    if data.startswith(NPY):
        values = read_npy(data)
        if values.ndim == 3 and values.shape[0] == 1:
            values = values[0]
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "biuf":
            raise ValueError(f"an array of {values.dtype} with shape {values.shape}; expected (height, width[, 3])")
        check(values.shape[:2])
        return Drawn(values, "npy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image(data) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
            orientation = orientation if orientation in range(1, 9) else 1
            width, height = image.size
            check((width, height) if orientation in _SIDEWAYS else (height, width))
            mode = image.mode
            if convert and (mode in ("F", "I") or mode.startswith("I;")):
                raise DataError(f"an image of more than 8 bits (mode {mode}); decode depth16 reads those")
            target = convert or ("RGB" if mode in ("RGBA", "PA", "CMYK", "YCbCr") else mode)
            picture = image.convert(target) if mode != target else image
            return Drawn(np.asarray(picture), image.format or "", mode, orientation)


def as_stored(drawn: Drawn, modality: Modality, config: FileConfig) -> tuple[NDArray[Any], bool]:
    """The pixels that a file of a modality holds.

    Returns:
        uint8 (H, W[, 3]) or uint16 (H, W); and whether they are others than in the file, or written in another way.

    Raises:
        DataError: if they cannot be what the modality says.
    """
    decode = modality.decode
    if decode in LABEL_MAPS:
        pixels, changed = _ids(drawn, modality, config)
    elif decode == "depth16":
        pixels, changed = _levels(drawn, modality, config)
    elif decode == "normal":
        pixels, changed = _normals(drawn)
    else:
        pixels, changed = _eight_bit(drawn, 2 if decode == "gray" else 3), False
    return pixels, changed or drawn.mode not in _READABLE[decode]


def _ids(drawn: Drawn, modality: Modality, config: FileConfig) -> tuple[NDArray[Any], bool]:
    if drawn.form in ("JPEG", "MPO"):
        raise DataError("a JPEG, which changes values at edges, so that ids are lost: store masks as png (lossless)")
    values = drawn.values
    if config.colors:
        return _of_colors(values, modality, config.colors), True
    if values.ndim == 3:
        if drawn.mode == "LA":
            values = values[..., :1]
        if (values != values[..., :1]).any():
            raise DataError("colours instead of one id per pixel; colors: says which class each of them is")
        values = values[..., 0]
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise DataError("fractions instead of ids; expected whole numbers")
    ids = values.astype(np.int64)
    if config.ids:
        mapped = ids.copy()
        for raw, target in config.ids.items():
            mapped[ids == raw] = class_id(target, modality, f"ids.{raw}")
        ids = mapped
    elif modality.vocab_size == 2 and ids.max() == VOID and set(np.unique(ids).tolist()) == {0, VOID}:
        raise DataError(
            f"a mask of 0 and {VOID}, where {VOID} means a pixel without a label. If it means the second class, say "
            f"ids: {{{VOID}: 1}}; otherwise ids: {{{VOID}: void}}"
        )
    ids = np.where(ids < 0, VOID, ids)
    if ids.max() > _FULL:
        raise DataError(f"id {ids.max()} is more than 16 bits hold")
    return ids.astype(np.uint8 if ids.max() <= 255 else np.uint16), bool(config.ids)


def _of_colors(values: NDArray[Any], modality: Modality, colors: dict[str, int | str]) -> NDArray[np.uint8]:
    if values.ndim != 3 or values.shape[2] < 3:
        raise DataError("one number per pixel instead of colours; ids: says which class each of them is")
    rgb = values[..., :3].astype(np.uint32)
    codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    found, place = np.unique(codes, return_inverse=True)
    known = {
        red << 16 | green << 8 | blue: class_id(target, modality, f"colors.{color}")
        for color, target in colors.items()
        for red, green, blue in [parse_color(color)]
    }
    for code in found.tolist():
        if code not in known:
            count = int((codes == code).sum())
            raise DataError(
                f"colour {code >> 16},{code >> 8 & 255},{code & 255} in {count} pixels is not among colors: "
                f"{', '.join(colors)}"
            )
    ids = np.array([known[code] for code in found.tolist()])[place].reshape(codes.shape)
    return ids.astype(np.uint8 if ids.max() <= 255 else np.uint16)


def _levels(drawn: Drawn, modality: Modality, config: FileConfig) -> tuple[NDArray[np.uint16], bool]:
    """Natural units as shares of the largest value, in steps of 1 / 65535."""
    if drawn.form in ("JPEG", "MPO"):
        raise DataError("a JPEG has 8 bits, and changes values: store measurements as 16-bit png or as an array")
    values = drawn.values
    if values.ndim != 2:
        raise DataError(f"{values.shape[2]} numbers per pixel; expected one")
    assert modality.value_range is not None, "checked in the config"
    low, high = modality.value_range
    as_they_are = config.scale is None and drawn.mode.startswith("I;16")
    if config.scale is None and values.dtype.kind != "f" and not as_they_are:
        raise DataError(
            f"whole numbers of {values.dtype}, whose unit is not known: scale: says what one step is, for instance "
            "0.001 for millimetres"
        )
    step = high / _FULL if as_they_are else config.scale or 1.0
    with np.errstate(invalid="ignore"):
        numbers = values.astype(np.float64) * step + (0.0 if as_they_are else config.offset)
        half = high / _FULL / 2  # what rounding may change
        outside = ~((numbers >= low - half) & (numbers <= high + half))
    if holes := int(np.isnan(numbers).sum()):
        raise DataError(
            f"{holes} of {values.size} values are NaN, and a measured image has no form for holes: fill them"
        )
    if outside.any() and not config.clip:
        finite = numbers[np.isfinite(numbers)]
        seen = f"from {finite.min():g} to {finite.max():g}" if finite.size else "never finite"
        raise DataError(
            f"{int(outside.sum())} of {values.size} values lie outside the value_range {low:g} to {high:g}; they are "
            f"{seen}. clip: true puts them at its ends"
        )
    if as_they_are and not outside.any():
        return values.astype(np.uint16), False
    return np.rint(np.clip(numbers, low, high) * (_FULL / high)).astype(np.uint16), True


def _normals(drawn: Drawn) -> tuple[NDArray[np.uint8], bool]:
    values = drawn.values
    if values.ndim != 3 or values.shape[2] != 3:
        raise DataError(f"an array of shape {values.shape}; expected normals (height, width, 3)")
    if values.dtype == np.uint8:
        return values, False
    if values.dtype.kind != "f" or not (np.abs(values) <= 1.001).all():
        raise DataError("normals that are neither 8-bit nor fractions in [-1, 1]")
    return np.rint((np.clip(values.astype(np.float64), -1, 1) + 1) * 127.5).astype(np.uint8), True


def _eight_bit(drawn: Drawn, num_axes: int) -> NDArray[np.uint8]:
    values = drawn.values
    if values.dtype != np.uint8 or values.ndim != num_axes or values.shape[2:] not in ((), (3,)):
        shape = "(height, width, 3)" if num_axes == 3 else "(height, width)"
        raise DataError(f"an array of {values.dtype} with shape {values.shape}; expected uint8 {shape}")
    return values
