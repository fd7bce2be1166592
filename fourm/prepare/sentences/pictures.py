"""Views of samples: images and annotations as pictures of one size, cropped and mirrored alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fourm.data import decode as decoding
from fourm.data import geometry as geometries
from fourm.data import transforms
from fourm.data.geometry import Geometry
from fourm.data.sentence_configs import RandomAugmentConfig, SixCropsConfig, base_view
from fourm.data.source import Source
from fourm.errors import DataError
from fourm.modality import Modality
from fourm.report.colors import class_color
from fourm.report.pictures import draw
from fourm.rng import generator

_ONE_SQUARE, _SQUARE = 0.3, (0.1, 0.5)
_PATCHES = 8
"""Patches of the shorter side: 32 pixels of 256."""


class Shot(NamedTuple):
    """A picture, in one of the forms that it takes.

    Args:
        row: number of the sample.
        view: which picture of it, with its filter.
        copy: number of the form; 0 is the first.
    """

    row: int
    view: str
    copy: int


class Pictures:
    """Draws views of samples.

    Args:
        source: the files.
        views: view -> modality.
        size: (height, width) of the pictures.
        augment: how copies differ; None: they do not, but for what is blacked out.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        source: Source,
        views: Mapping[str, Modality],
        size: tuple[int, int],
        augment: RandomAugmentConfig | SixCropsConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.source, self.views, self.size, self.augment, self.seed = source, views, size, augment, seed
        self.image = next((name for name, m in views.items() if transforms.is_image(m)), None)

    def shot(self, row: int, view: str, repetition: int) -> Shot:
        """The picture of a view when its task comes for the `repetition`th time; equal ones are equal."""
        varies = self.augment is not None or base_view(view)[1] == "masked"
        return Shot(row, view, repetition if varies else 0)

    def draw(self, row: int, shots: Iterable[Shot]) -> dict[Shot, NDArray[np.uint8]]:
        """The pictures (H, W, 3) of one sample.

        Raises:
            DataError: if a file is damaged.
        """
        raw, found = self.source.read(row), {}
        values: dict[str, Any] = {}
        for shot in shots:
            name, filtered = base_view(shot.view)
            for needed in {name, self.image or name} - values.keys():
                modality = self.views[needed]
                values[needed] = decoding.decode(raw[modality.source], modality, self._where(row, modality))
            picture = self._view(name, values, self._geometry(shot, values), on_image=filtered != "black")
            if filtered == "gray":
                picture = picture.convert("L").convert("RGB")
            pixels = np.asarray(picture)
            if filtered == "masked":
                pixels = blacked_out(pixels, generator(self.seed, shot.row, shot.copy, "mask"))
            found[shot] = pixels
        return found

    def _geometry(self, shot: Shot, values: Mapping[str, Any]) -> Geometry:
        """What a copy shows, of all views alike."""
        first = next(value for value in (values.get(self.image or ""), *values.values()) if value is not None)
        size = first.shape[:2] if isinstance(first, np.ndarray) else self.size
        if isinstance(self.augment, SixCropsConfig):
            boxes = geometries.six_boxes(size, self.augment.side)
            return Geometry(*boxes[shot.copy % len(boxes)], False, size)
        if self.augment is not None and shot.copy:
            rng = generator(self.seed, shot.row, shot.copy, "augment")
            return geometries.draw(self.augment.crop, self.augment.hflip, rng, size, self.size)
        return Geometry(*geometries.center_box(size, self.size[1] / self.size[0]), False, size)

    def _view(self, name: str, values: Mapping[str, Any], geometry: Geometry, *, on_image: bool = True) -> Image.Image:
        modality, value = self.views[name], values[name]
        if transforms.is_image(modality):
            return draw(
                modality, transforms.natural(transforms.cropped(value, modality, geometry, self.size), modality)
            )
        value = transforms.apply(value, modality, geometry, np.random.default_rng(0))
        below = Image.new("RGB", self.size[::-1])
        if self.image is not None and on_image:
            below = self._view(self.image, values, geometry)
        if modality.decode == "boxes":
            return boxed(value, below, modality.classes)
        return draw(modality, value, background=below).resize(self.size[::-1], Image.Resampling.BILINEAR)

    def _where(self, row: int, modality: Modality) -> Callable[[], str]:
        return lambda: self.source.where(row, modality.source)


def boxed(instances: Iterable[Mapping[str, Any]], image: Image.Image, classes: tuple[str, ...] = ()) -> Image.Image:
    """Boxes on an image, coloured by class, a pixel wide for every 64 of the shorter side; small ones in front.

    Args:
        instances: mappings with `boxes` (x1, y1, x2, y2 as shares of the width and height) and `class_name`.
        image: what is below.
        classes: class names in the order of the palette.
    """
    sheet = image.copy()
    pen, (width, height) = ImageDraw.Draw(sheet), sheet.size
    line = max(1, min(sheet.size) // 64)
    corners = [(np.clip(np.asarray(one["boxes"], float), 0, 1), str(one.get("class_name", ""))) for one in instances]
    for (x1, y1, x2, y2), name in sorted(corners, key=lambda c: -(c[0][2] - c[0][0]) * (c[0][3] - c[0][1])):
        box = (round(x1 * (width - 1)), round(y1 * (height - 1)), round(x2 * (width - 1)), round(y2 * (height - 1)))
        pen.rectangle(box, outline=class_color(name, classes), width=line)
    return sheet


def blacked_out(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image with parts blacked out, as LVM trains inpainting: one square, or a random share of patches.

    Args:
        image: (H, W, 3).
        rng: draws which.
    """
    height, width = image.shape[:2]
    least, result = min(height, width), image.copy()
    if rng.random() < _ONE_SQUARE:
        side = max(1, round(rng.uniform(*_SQUARE) * least))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        result[top : top + side, left : left + side] = 0
        return result
    patch = max(1, least // _PATCHES)
    grid = -(-height // patch), -(-width // patch)
    hidden = rng.random(grid) < rng.uniform()
    result[np.kron(hidden, np.ones((patch, patch), bool))[:height, :width]] = 0
    return result


def write_frames(frames: NDArray[np.uint8], root: str | Path, clip: str, source: str = "rgb") -> None:
    """Put the frames of a clip into a folder of images, where `group_by: folder` finds them as one clip.

    Args:
        frames: (T, H, W, 3) uint8.
        root: folder of the data.
        clip: its name.
        source: folder of the images below `root`.

    Raises:
        DataError: if it is no such array, or cannot be written.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DataError(f"clip '{clip}' has shape {frames.shape} of {frames.dtype}; expected (T, H, W, 3) of uint8")
    folder = Path(root) / source / clip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for n, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{n:06d}.png")
    except OSError as error:
        raise DataError(f"cannot write frames to {folder}: {error}. Free space or choose another folder") from error
