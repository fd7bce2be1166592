"""Scene number i of a seed: cut-out photographs on a photograph, with the masks of what can be seen of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fourm.data.encode import png
from fourm.data.images import open_image
from fourm.errors import DataError
from fourm.prepare.scenes.cutouts import CLASSES, Photographs
from fourm.prepare.scenes.writer import Picture
from fourm.rng import generator

_MAX_OBJECTS = 6
_SIZES = (0.2, 0.6)  # longer side of an object, as a share of the picture's
_TILT = 20.0  # degrees to either side
_LEAST_INSIDE = 0.5  # of an object, within the picture
_LEAST_VISIBLE = 0.35  # of an object, when all others are there
_LEAST_PIXELS = 16
_TRIES = 8
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Composer:
    """Draws scenes; a scene is a pure function of the photographs and (seed, number, size).

    Args:
        photographs: what they are made of.
        seed: another seed gives other scenes.
        size: pixels per side.
    """

    photographs: Photographs
    seed: int
    size: int
    split: str = field(default="all")

    def __call__(self, number: int) -> Picture:
        rng = generator("scenes", self.split, self.seed, number)
        canvas = self._background(rng)
        shown: list[tuple[int, Mask, int]] = []  # label, visible mask, pixels without what lies in front
        for _ in range(int(rng.integers(1, _MAX_OBJECTS + 1))):
            label = int(rng.integers(len(CLASSES)))
            files = self.photographs.cutouts[CLASSES[label]]
            thing = self._thing(rng, files[int(rng.integers(len(files)))])
            placed = self._place(rng, thing, shown)
            if placed is None:
                continue
            at, mask, whole = placed
            canvas.paste(thing, at, thing)
            shown = [(other, seen & ~mask, total) for other, seen, total in shown] + [(label + 1, mask, whole)]
        return Picture(png(np.asarray(canvas)), (self.size, self.size), [(label, seen) for label, seen, _ in shown])

    def _background(self, rng: np.random.Generator) -> Image.Image:
        """A random square of a photograph."""
        files = self.photographs.backgrounds
        photo = _load(files[int(rng.integers(len(files)))], "RGB")
        side = int(min(photo.size) * rng.uniform(0.4, 1.0))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        cut = photo.resize((self.size, self.size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return ImageOps.mirror(cut) if rng.random() < 0.5 else cut

    def _thing(self, rng: np.random.Generator, path: Path) -> Image.Image:
        """A cut-out photograph, mirrored, scaled, tilted and a little brighter or darker."""
        photo = _load(path, "RGBA")
        photo = photo.crop(photo.getchannel("A").getbbox() or (0, 0, *photo.size))
        if rng.random() < 0.5:
            photo = ImageOps.mirror(photo)
        factor = self.size * rng.uniform(*_SIZES) / max(photo.size)
        width, height = (max(1, round(side * factor)) for side in photo.size)
        # Colours under full transparency would bleed into the borders: they are weighed by their opacity.
        photo = photo.convert("RGBa").resize((width, height), Image.Resampling.BICUBIC)
        photo = photo.rotate(rng.uniform(-_TILT, _TILT), Image.Resampling.BICUBIC, expand=True).convert("RGBA")
        light = rng.uniform(0.75, 1.25)
        return _map_colours(photo, lambda values: np.clip(values * light, 0, 255))

    def _place(
        self, rng: np.random.Generator, thing: Image.Image, shown: list[tuple[int, Mask, int]]
    ) -> tuple[tuple[int, int], Mask, int] | None:
        """Where a thing leaves enough to be seen of itself and of all others; None if no place was found.

        Returns:
            left and top, the mask of what is within the picture, and its number of pixels.
        """
        opaque = np.asarray(thing.getchannel("A")) > 127
        for _ in range(_TRIES):
            left, top = (int(rng.integers(-side // 2, self.size - side // 2 + 1)) for side in thing.size)
            mask = self._on_canvas(opaque, left, top)
            inside = int(mask.sum())
            if inside < max(_LEAST_PIXELS, _LEAST_INSIDE * opaque.sum()):
                continue
            left_over = (((seen & ~mask).sum(), total) for _, seen, total in shown)
            if all(count >= max(_LEAST_PIXELS, _LEAST_VISIBLE * total) for count, total in left_over):
                return (left, top), mask, inside
        return None

    def _on_canvas(self, opaque: Mask, left: int, top: int) -> Mask:
        mask = np.zeros((self.size, self.size), np.bool_)
        height, width = opaque.shape
        rows, columns = slice(max(0, top), top + height), slice(max(0, left), left + width)
        target = mask[rows, columns]
        target[:] = opaque[max(0, -top) :, max(0, -left) :][: target.shape[0], : target.shape[1]]
        return mask


def _map_colours(photo: Image.Image, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Image.Image:
    pixels = np.asarray(photo).copy()
    pixels[..., :3] = change(pixels[..., :3].astype(np.float32)).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA")


@lru_cache(maxsize=256)
def _load(path: Path, mode: str) -> Image.Image:
    try:
        return open_image(path.read_bytes()).convert(mode)
    except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
        raise DataError(f"{path}: cannot read it as an image: {error}. Install its package again") from error
