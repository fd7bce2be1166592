"""Apply one geometry to each kind of value, then turn natural units into what networks read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fourm.data import instances
from fourm.data.geometry import Geometry
from fourm.errors import ConfigError
from fourm.modality import COLOUR_STATISTICS, Modality

_SMALLEST_DEPTH = 1e-3
_AFFINE = ("half", "imagenet", "clip", "none")
"""Normalizations that multiply and add."""
RESAMPLING = {
    "image": Image.Resampling.BICUBIC,
    "gray": Image.Resampling.BICUBIC,
    "normal": Image.Resampling.BICUBIC,
    "depth16": Image.Resampling.BILINEAR,  # bicubic overshoots at the edges of objects, below zero metres
    "labels": Image.Resampling.NEAREST,
    "labels_void_first": Image.Resampling.NEAREST,
    "labels_from_one": Image.Resampling.NEAREST,
}
"""Decoder of images -> how they are made smaller or larger."""
DRAWING = ("text", "palette", "sam")
"""Decoders of values that `apply` chooses from."""
AUGMENTED = ("image", "gray")
"""Decoders of photographs."""
Augment = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Jitter:
    """Factors of one photometric draw; 1 changes nothing."""

    brightness: float
    contrast: float
    saturation: float

    @classmethod
    def draw(cls, strength: float, rng: np.random.Generator) -> Jitter | None:
        """Factors uniform in [1 - strength, 1 + strength]; None for strength 0."""
        return cls(*(float(f) for f in rng.uniform(1 - strength, 1 + strength, 3))) if strength else None


def is_image(modality: Modality) -> bool:
    """Whether its files are images: something to crop."""
    return modality.decode in RESAMPLING


def apply(
    value: Any,
    modality: Modality,
    geometry: Geometry,
    rng: np.random.Generator,
    *,
    jitter: Jitter | None = None,
    augment: Augment | None = None,
    mirror_words: bool = False,
    aligned_captions: bool = False,
    size: tuple[int, int] | None = None,
) -> Any:
    """Crop, flip, resize and normalise one decoded value.

    Args:
        value: what the modality's decoder returned.
        modality: what it is.
        geometry: the draw of this sample.
        rng: chooses among alternative captions, palettes of several sizes, and points of instances.
        jitter: photometric draw, for `image` modalities.
        augment: changes 8-bit `image` modalities further, after the crop.
        mirror_words: swap "left" and "right" in text when the geometry mirrors.
        aligned_captions: a list of texts holds one per stored crop.
        size: (height, width) that an image gets; None: its modality's.

    Returns:
        images and features (C, H, W) float32, label maps (H, W) int64, tokens (N,) int64, texts as str, boxes, people,
        points and palettes as lists, vectors and all else as they are.

    Raises:
        ValueError: if the value does not go with the geometry.
    """
    if is_image(modality):
        pixels = cropped(value, modality, geometry, size or modality.image_size)
        if augment is not None and modality.decode in AUGMENTED:
            pixels = augment(pixels)
        return to_input(pixels, modality, jitter if modality.decode == "image" else None)
    if modality.decode == "tokens":
        return _row(value, geometry.row, "rows of tokens")
    if modality.decode == "features":
        # A single vector may hold for all crops, as that of a sensor does; a map cannot.
        for_all = len(value) == 1 and modality.grid.image_size == (1, 1)
        return normalize(value[0] if for_all else _row(value, geometry.row, "rows of features"), modality)
    if modality.decode == "boxes":
        return instances.crop_boxes(value, geometry)
    if modality.decode == "poses":
        return instances.crop_people(value, geometry)
    if modality.decode == "palette":
        return instances.draw_palette(value, rng)
    if modality.decode == "sam":
        return instances.draw_points(_row(value, geometry.row, "rows of instances"), rng)
    if modality.decode == "text":
        if isinstance(value, list):
            value = _row(value, geometry.row, "captions") if aligned_captions else value[int(rng.integers(len(value)))]
        return swap_left_right(value) if mirror_words and geometry.hflip else value
    return value


def cropped(value: NDArray[Any], modality: Modality, geometry: Geometry, size: tuple[int, int]) -> NDArray[Any]:
    """The part of a decoded image that a geometry shows, not normalised yet; mirrored normals point the other way."""
    pixels = crop_resize(value, geometry, size, RESAMPLING[modality.decode])
    if modality.decode == "normal" and geometry.hflip:
        pixels = np.concatenate([255 - pixels[..., :1], pixels[..., 1:]], -1)
    return pixels


def _row(values: Any, row: int, what: str) -> Any:
    if row >= len(values):
        raise ValueError(
            f"crop {row} was drawn, but the file holds {len(values)} {what}. Make it again for all stored crops"
        )
    return values[row]


def crop_resize(
    pixels: NDArray[Any], geometry: Geometry, size: tuple[int, int], resampling: Image.Resampling
) -> NDArray[Any]:
    """Crop, resize with antialiasing (except nearest) and mirror an image; what is already right is not touched.

    Args:
        pixels: (H, W[, C]), 8-bit, int32 or float32.
        geometry: box and flip.
        size: (height, width) of the result.
        resampling: filter.
    """
    top, left, bottom, right = geometry.box_in((pixels.shape[0], pixels.shape[1]))
    pixels = pixels[top:bottom, left:right]
    if pixels.shape[:2] != size:
        pixels = np.ascontiguousarray(pixels)
        colours = pixels.dtype == np.uint8 and pixels.ndim == 3 and resampling == Image.Resampling.BICUBIC
        pixels = _resize_colours(pixels, size) if colours else _resize(pixels, size, resampling)
    return pixels[:, ::-1] if geometry.hflip else pixels


def _resize(pixels: NDArray[Any], size: tuple[int, int], resampling: Image.Resampling) -> NDArray[Any]:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], resampling))


def _resize_colours(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`_resize` with Pillow's bicubic filter in a third of the time: weights have 15 bits in place of 22."""
    import torch
    from torch.nn.functional import interpolate

    # torch would warn of an array that cannot be written to, as Pillow's are.
    planes = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)[None]
    resized: NDArray[np.uint8] = interpolate(planes, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    return resized


def to_input(pixels: NDArray[Any], modality: Modality, jitter: Jitter | None = None) -> NDArray[Any]:
    """Normalise an image (H, W[, C]), or pass on a label map.

    Returns:
        float32 (C, H, W) normalised as `modality.normalization` says, or int64 (H, W).
    """
    if modality.is_discrete:
        return pixels.astype(np.int64)
    channels_first = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if pixels.dtype != np.uint8:
        return normalize(np.array(channels_first, np.float32, order="C"), modality)
    if jitter is None and modality.normalization in _AFFINE:
        scale, bias = _affine(modality)  # one pass: 8 bit to natural units and natural units to input in one
        values = np.array(channels_first, np.float32, order="C")
        values *= scale
        values += bias
        return values
    low, high = modality.value_range or (0.0, 1.0)
    values = np.array(channels_first, np.float32, order="C") * np.float32((high - low) / 255) + np.float32(low)
    return normalize(values if jitter is None else jitter_colours(values, jitter), modality)


def to_patches(pixels: NDArray[Any], modality: Modality, positions: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The patches of an image (H, W[, C]) at some places, normalised as `to_input` does.

    Args:
        pixels: of the size of the modality's grid.
        modality: the image.
        positions: (n,) places in its grid.

    Returns:
        (n, p * p * C), each as (row, column, channel); None where the image has another size, is not 8-bit or a label
        map, or its normalization reads the whole image.
    """
    grid, p = modality.grid, modality.grid.patch_size
    if pixels.dtype != np.uint8 or pixels.shape[:2] != grid.image_size or not is_scaled(modality):
        return None
    blocks = pixels.reshape(grid.height, p, grid.width, p, -1).swapaxes(1, 2)
    levels = blocks[positions // grid.width, positions % grid.width].astype(np.float32)
    return scaled(levels.reshape(len(positions), -1), modality)


def is_scaled(modality: Modality) -> bool:
    """Whether what networks read of an 8-bit image is a multiple of its levels and a constant."""
    return not modality.is_discrete and modality.normalization in _AFFINE


def scaled(levels: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    """8-bit levels (n, p * p * C) of patches as networks read them, in place."""
    scale, bias = _affine_of_patch(modality)
    levels *= scale
    levels += bias
    return levels


@lru_cache(maxsize=128)
def _affine_of_patch(modality: Modality) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Channel by channel, for all pixels of a patch: numpy is slow where the last axis has three numbers."""
    scale, bias = (np.tile(numbers.ravel(), modality.grid.patch_size**2) for numbers in _affine(modality))
    return scale, bias


def natural(value: Any, modality: Modality) -> Any:
    """A decoded file in natural units, neither cropped nor normalised, as it is drawn and compared.

    Returns:
        colours in [0, 1], metres or unit normals (C, H, W) float32; labels (H, W) int64; all else as it is.
    """
    if not is_image(modality):
        return value
    if modality.is_discrete:
        return np.asarray(value, np.int64)
    planes = value[None] if value.ndim == 2 else value.transpose(2, 0, 1)
    if value.dtype != np.uint8:
        return np.ascontiguousarray(planes, np.float32)
    low, high = modality.value_range or (0.0, 1.0)
    numbers = planes.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
    return numbers / np.linalg.norm(numbers, axis=0).clip(1e-6) if modality.decode == "normal" else numbers


@lru_cache(maxsize=128)
def _affine(modality: Modality) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    low, high = modality.value_range or (0.0, 1.0)
    channels = modality.channels or 1
    ends = np.stack([np.full((channels, 1, 1), low, np.float32), np.full((channels, 1, 1), high, np.float32)])
    zero, full = (normalize(end, modality) for end in ends)
    return (full - zero) / np.float32(255), zero


def normalize(values: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    """Natural units (C, H, W) to network inputs.

    `half`: value range to [-1, 1]. `imagenet`, `clip`: mean and deviation of each colour there. `log`: logarithm,
    value range to [-1, 1].
    `standardize`: per image, mean and deviation of the middle 80 % of the values (4M's depth). `mask`: 1 above the
    middle of the value range, 0 below. `none`: unchanged.

    Raises:
        ConfigError: for an unknown normalization.
    """
    low, high = modality.value_range or (0.0, 1.0)
    match modality.normalization:
        case "none" | None:
            return values
        case "half":
            return (values - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
        case "imagenet" | "clip":
            statistics = COLOUR_STATISTICS[modality.normalization]
            mean, std = (np.asarray(v, np.float32).reshape(3, 1, 1) for v in statistics)
            return (values - mean) / std
        case "log":
            smallest = np.log(max(low, _SMALLEST_DEPTH))
            logs = np.log(np.clip(values, max(low, _SMALLEST_DEPTH), high))
            return ((logs - smallest) * (2 / (np.log(high) - smallest)) - 1).astype(np.float32)
        case "standardize":
            return standardize(values)
        case "mask":
            return (values > np.float32((low + high) / 2)).astype(np.float32)
    raise ConfigError(f"modality '{modality.name}': normalization '{modality.normalization}' is not known")


def standardize(values: NDArray[np.float32], trim: float = 0.1) -> NDArray[np.float32]:
    """Standardise by the mean and deviation of the values without the `trim` smallest and largest (4M's depth)."""
    ordered = np.sort(values, axis=None)
    cut = int(trim * ordered.size)
    middle = ordered[cut : ordered.size - cut]
    return (values - middle.mean()) / np.sqrt(middle.var() + np.float32(1e-6))


def jitter_colours(values: NDArray[np.float32], jitter: Jitter) -> NDArray[np.float32]:
    """Brightness, contrast and saturation of an RGB image (3, H, W) in [0, 1]."""
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    values = values * np.float32(jitter.brightness)
    mean = np.float32((luma @ values.reshape(3, -1)).mean())
    values = (values - mean) * np.float32(jitter.contrast) + mean
    gray = np.tensordot(luma, values, 1)
    values = (values - gray) * np.float32(jitter.saturation) + gray
    return np.clip(values, 0, 1)


_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
_SIDE = re.compile(rf"\b({'|'.join(_SIDES)})\b")
_swap: Callable[[re.Match[str]], str] = lambda match: _SIDES[match[0]]  # noqa: E731


def swap_left_right(text: str) -> str:
    """`a lamp left of a bed` -> `a lamp right of a bed`, for captions of mirrored images."""
    return _SIDE.sub(_swap, text)
