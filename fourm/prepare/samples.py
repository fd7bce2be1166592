"""Single samples of a data set as pictures and texts, each in the way that shows what its modality holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fourm.data.geometry import whole
from fourm.data.instances import crop_people
from fourm.data.transforms import is_image, natural
from fourm.modality import Modality
from fourm.report.html import Cell
from fourm.report.pictures import draw

SIDE = 256
"""Most pixels per side of a picture."""
VECTORS = ("features", "vectors")
"""`decode` of what is drawn by principal components, which all samples share."""
_ENOUGH = 1024  # pixels per side from which on a map is thinned out before it is drawn
_MOST_LETTERS = 600
_SAM_SIDE = 224


@dataclass(frozen=True)
class View:
    """What other sources of a sample are drawn on.

    Args:
        picture: the photograph; None where there is none.
        size: (height, width) that it is stored with.
        crops: (crops, 5) stored crops: top, left, height, width, flip; None where there are none.
        classes: class names whose colours boxes share.
    """

    picture: Image.Image | None = None
    size: tuple[int, int] | None = None
    crops: NDArray[np.float32] | None = None
    classes: tuple[str, ...] = ()

    def crop(self) -> Image.Image | None:
        """The photograph within the first stored crop, which instances of Segment Anything refer to."""
        if self.picture is None or self.size is None or self.crops is None:
            return self.picture
        left, top, right, bottom = _shares(self.crops[0], self.size)
        width, height = self.picture.size
        box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        cut = self.picture.crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.crops[0][4] else cut


def show_value(value: Any, modality: Modality, view: View, like: Sequence[Any] = ()) -> Cell:
    """A decoded file as a picture or, where it is one, as text.

    Args:
        value: what its decoder returned.
        modality: what it holds.
        view: of the same sample.
        like: values of the same source, whose colours features share.
    """
    if modality.decode in ("text", "structured"):
        return _words(value)
    shown = _drawable(value, modality, view)
    background = view.crop() if modality.decode == "sam" else view.picture
    others = [_drawable(one, modality, view) for one in like] if modality.decode in VECTORS else None
    picture = draw(modality, shown, background=background, like=others or None, classes=view.classes)
    return small(picture, sharp=modality.is_grid and modality.is_discrete)


def photograph_picture(value: NDArray[Any], modality: Modality) -> Image.Image:
    """What other sources are drawn on, of a decoded photograph."""
    return small(draw(modality, _drawable(value, modality, View())))


def small(picture: Image.Image, *, sharp: bool = False) -> Image.Image:
    """A picture of at most `SIDE` pixels per side; `sharp` keeps the colours of its pixels."""
    scale = SIDE / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS)


def _words(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        value = " / ".join(value)
    if isinstance(value, Mapping):
        value = "; ".join(f"{name}: {_plain(fact)}" for name, fact in value.items())
    text = _plain(value)
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " ..."


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _drawable(value: Any, modality: Modality, view: View) -> Any:
    """A value in the units that `draw` takes. Of several stored crops, the first is shown."""
    if is_image(modality):
        step = max(1, max(value.shape[:2]) // _ENOUGH)
        return natural(value[::step, ::step], modality)
    size = view.size
    match modality.decode:
        case "tokens" | "features":
            return value[0]
        case "vectors":
            return np.asarray(value).T[:, None]
        case "palette":
            return value[max(value)]
        case "crop_settings":
            # Without a photograph, on a sheet that ends with the largest crop.
            sheet = size or (max(value[:, 0] + value[:, 2]), max(value[:, 1] + value[:, 3]))
            return [{"box": _shares(row, sheet), "hflip": bool(row[4])} for row in value]
        case "poses":
            return _people(value, size)
        case "sam":
            return _instances(value[0])
    return value


def _shares(crop: Sequence[float] | NDArray[Any], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of top, left, height, width in an image of (height, width)."""
    top, left, height, width = map(float, crop[:4])
    return left / size[1], top / size[0], (left + width) / size[1], (top + height) / size[0]


def _people(people: Sequence[Mapping[str, Any]], size: tuple[int, int] | None) -> list[dict[str, Any]]:
    """People with their places as shares; without a photograph, of a sheet that ends with the largest box."""
    corners = [person["bbox"][2:] for person in people] or [(1, 1)]
    height, width = size or (math.ceil(max(y for _, y in corners)), math.ceil(max(x for x, _ in corners)))
    return crop_people(people, whole((height, width)))


def _instances(crop: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The outlines of one crop as masks in their boxes, each with its middle as query point."""
    found = []
    ends = np.cumsum(crop["num_points"])
    for end, count, box in zip(ends, crop["num_points"], crop["box"], strict=True):
        x1, y1, x2, y2 = (int(side) for side in box)
        sheet = Image.new("L", (_SAM_SIDE, _SAM_SIDE))
        corners = [(float(x), float(y)) for x, y in crop["points"][end - count : end]]
        if len(corners) > 2:
            ImageDraw.Draw(sheet).polygon(corners, fill=255)
        mask = np.asarray(sheet, np.float32)[y1 : y2 + 1, x1 : x2 + 1] / 255
        shares = [side / _SAM_SIDE for side in (x1, y1, x2, y2)]
        point = [(shares[0] + shares[2]) / 2, (shares[1] + shares[3]) / 2]
        found.append({"point": point, "instances": [{"box": shares, "mask": mask if mask.any() else None}]})
    return found
