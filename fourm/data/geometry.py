"""One draw of crop and flip per sample, for all its modalities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourm.data.configs import CropConfig
from fourm.errors import DataError

_TRIES = 10


@dataclass(frozen=True)
class Geometry:
    """A box in an image, and whether it is mirrored.

    Args:
        top: first row of the box.
        left: first column of the box.
        height: rows of the box.
        width: columns of the box.
        hflip: mirror left and right after cropping.
        image_size: (height, width) of the image these numbers refer to; images of another resolution are cropped in
            proportion.
        row: which stored crop this is; token files hold one row of tokens for each.
    """

    top: int
    left: int
    height: int
    width: int
    hflip: bool
    image_size: tuple[int, int]
    row: int = 0

    def box_in(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The box as top, left, bottom, right in an image of `size` (height, width).

        Raises:
            ValueError: if that image has another shape.
        """
        if size == self.image_size:
            return self.top, self.left, self.top + self.height, self.left + self.width
        rows, columns = size[0] / self.image_size[0], size[1] / self.image_size[1]
        if not same_shape(size, self.image_size):
            raise ValueError(
                f"the image is {_shape(size)}, which is not the shape of its aligned image, {_shape(self.image_size)}"
            )
        top, left = round(self.top * rows), round(self.left * columns)
        bottom = min(size[0], max(top + 1, round((self.top + self.height) * rows)))
        return top, left, bottom, min(size[1], max(left + 1, round((self.left + self.width) * columns)))

    @property
    def relative_box(self) -> tuple[float, float, float, float]:
        """The box as top, left, height, width in shares of the image."""
        height, width = self.image_size
        return self.top / height, self.left / width, self.height / height, self.width / width


def fitted(geometry: Geometry, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a box whose shorter side becomes as long as that of `size`."""
    scale = min(size) / min(geometry.height, geometry.width)
    return max(1, round(geometry.height * scale)), max(1, round(geometry.width * scale))


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one image, (height, width), is the other in another resolution, but for the rounding of its sides."""
    return abs(size[0] - size[1] * other[0] / other[1]) <= 1 + size[0] / other[0]


def whole(image_size: tuple[int, int], *, hflip: bool = False, row: int = 0) -> Geometry:
    """The whole image."""
    return Geometry(0, 0, *image_size, hflip, image_size, row)


def draw(
    config: CropConfig,
    hflip: float,
    rng: np.random.Generator,
    image_size: tuple[int, int],
    target_size: tuple[int, int],
    stored: NDArray[np.float32] | None = None,
) -> Geometry:
    """Draw the geometry of one sample.

    Args:
        config: kind of crop.
        hflip: probability of mirroring; stored crops bring their own.
        rng: source of all randomness.
        image_size: (height, width) of the image to crop.
        target_size: (height, width) of what the model sees; `center` takes its shape.
        stored: (crops, 5) rows of top, left, height, width, flip, for `crop_settings`.

    Raises:
        DataError: if a stored crop lies outside the image, or there are none.
    """
    if config.kind == "crop_settings":
        if stored is None:
            raise DataError("crop.kind is crop_settings, but this sample has no stored crops")
        return from_settings(stored, int(rng.integers(len(stored))) if config.augment else 0, image_size)
    if config.kind == "center":
        top, left, height, width = center_box(image_size, target_size[1] / target_size[0])
    elif config.kind == "random_resized":
        top, left, height, width = random_box(config, rng, image_size)
    else:
        top, left, height, width = 0, 0, *image_size
    flip = bool(hflip and rng.random() < hflip)
    return Geometry(top, left, height, width, flip, image_size)


def from_settings(stored: NDArray[np.float32], row: int, image_size: tuple[int, int] | None = None) -> Geometry:
    """The geometry of one stored crop.

    Args:
        stored: (crops, 5) rows of top, left, height, width, flip.
        row: which.
        image_size: (height, width) of the image; None: unknown, taken to end with the crop. Whatever comes in pixels
            can be cropped without it.

    Raises:
        DataError: if it lies outside the image.
    """
    top, left, height, width, flip = (int(value) for value in stored[row])
    image_size = image_size or (top + height, left + width)
    if top < 0 or left < 0 or top + height > image_size[0] or left + width > image_size[1]:
        raise DataError(
            f"stored crop {row} (top {top}, left {left}, height {height}, width {width}) lies outside the image of "
            f"{_shape(image_size)}: the crops were made for images of another size. Make crop_settings and tokens again"
        )
    return Geometry(top, left, height, width, bool(flip), image_size, row)


def center_box(image_size: tuple[int, int], aspect: float) -> tuple[int, int, int, int]:
    """The largest centred box with width : height = `aspect`, as top, left, height, width."""
    rows, columns = image_size
    height = min(rows, max(1, round(columns / aspect)))
    width = min(columns, max(1, round(rows * aspect)))
    return (rows - height) // 2, (columns - width) // 2, height, width


def random_box(config: CropConfig, rng: np.random.Generator, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box with a random share of the area and a log-uniform aspect ratio (random resized crop, Szegedy et al.

    2014).
    """
    rows, columns = image_size
    for _ in range(_TRIES):
        area = rng.uniform(*config.scale) * rows * columns
        aspect = math.exp(rng.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < height <= rows and 0 < width <= columns:
            return int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1)), height, width
    return center_box(image_size, min(max(columns / rows, config.ratio[0]), config.ratio[1]))


def six_boxes(image_size: tuple[int, int], side: int) -> list[tuple[int, int, int, int]]:
    """Squares at the corners and in the middle of the longer sides (DeLVM's crops of SA-1B, Guo et al. 2024).

    Args:
        image_size: (height, width) of the image.
        side: of the squares; the image's shorter side, where that is less.

    Returns:
        top, left, height, width of each.
    """
    rows, columns = image_size
    side = min(side, rows, columns)
    bottom, right = rows - side, columns - side
    middle = [(0, right // 2), (bottom, right // 2)] if columns >= rows else [(bottom // 2, 0), (bottom // 2, right)]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    return [(top, left, side, side) for top, left in (*corners, *middle)]


def draw_settings(
    num_crops: int,
    image_size: tuple[int, int],
    target_size: tuple[int, int],
    rng: np.random.Generator,
    config: CropConfig | None = None,
    hflip: float = 0.5,
) -> NDArray[np.int32]:
    """Crops to store with a sample before its images are turned into tokens (4M): the centre, then random ones.

    Args:
        num_crops: rows to draw.
        image_size: (height, width) of the image.
        target_size: (height, width) the tokenizer sees.
        rng: source of all randomness.
        config: `none` repeats the centre crop (so that only flips vary); otherwise scale and ratio of the random crops.
        hflip: probability of mirroring a random crop.

    Returns:
        (num_crops, 5): top, left, height, width, flip.
    """
    center = center_box(image_size, target_size[1] / target_size[0])
    rows: list[tuple[int, int, int, int, int]] = [(*center, 0)]
    config = config or CropConfig("random_resized")
    while len(rows) < num_crops:
        box = center if config.kind in ("none", "center") else random_box(config, rng, image_size)
        rows.append((*box, int(rng.random() < hflip)))
    return np.asarray(rows, np.int32)


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
