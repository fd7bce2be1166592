"""Images with boxes and masks of instances, as COCO has them (Lin et al. 2014), checked before anything is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data import coco_json
from fourm.data.coco_config import CocoDataConfig
from fourm.data.coco_json import Entry, plain_id
from fourm.data.images import open_image
from fourm.data.regions import segmentation_mask
from fourm.errors import ConfigError, DataError, MissingExtraError, did_you_mean

_LOG = logging.getLogger(__name__)
_WANTED = coco_json.COMMON | {"bbox", "iscrowd", "area", "segmentation", "size", "counts"}
_SLACK = 1.0  # pixels that boxes may reach beyond the border: published files round
_LOOKED_AT = 1000  # images whose files are opened before training


@dataclass
class Instances:
    """What is to be seen in one image.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4) float32 x1, y1, x2, y2 in pixels.
        labels: (n,) int64; 0 is the background, k + 1 class k.
        masks: (n, H, W) bool; None where only boxes are read.
        crowd: (n,) bool; regions of many instances that were not told apart.
        area: (n,) float32 pixels, as the file says.
        key: the id of the image.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    crowd: NDArray[np.bool_]
    area: NDArray[np.float32]
    key: int | str


class CocoImages:
    """The images of a data set by number, in the order of their ids.

    The file is read once, and everything that can be told from it is checked then.

    Args:
        config: where they are.
        classes: names of the classes in the order of their labels; None: all categories of the file, in the order of
            their ids.
        only: leave out annotations of other categories; false: there must be none.
        masks: read masks too.

    Raises:
        ConfigError: if the file is not in COCO's form, its categories do not match, or pycocotools is missing.
        DataError: if an annotation or an image cannot be right; names the file, the annotation and the remedy.
    """

    def __init__(
        self,
        config: CocoDataConfig,
        classes: Sequence[str] | None = None,
        *,
        only: bool = False,
        masks: bool = True,
    ) -> None:
        self.config, self.masks = config, masks
        self.path, self.folder = Path(config.annotations), Path(config.images)
        content = coco_json.read(self.path, _WANTED)
        try:
            images = coco_json.by_id(content["images"], "file_name", self.path)
            annotations = coco_json.by_image(content["annotations"], images, self.path)
            categories = {n: str(one["name"]) for n, one in self._categories(content).items()}
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} is not in COCO's form: expected images, annotations and categories with their ids; "
                f"{type(error).__name__} {error}"
            ) from None
        self.classes = self._match(categories, classes, only)
        self._labels = {n: self.classes.index(name) + 1 for n, name in categories.items() if name in self.classes}
        self._known = set(categories)
        self._found = self._checked(images, annotations)
        kept = [
            n for n in sorted(images, key=str if _has_text(images) else None) if config.keep_empty or self._found[n]
        ]
        self._images = [images[n] for n in kept[: config.max_samples]]
        if not self._images:
            what = "no image with an annotation" if images else "no images"
            raise DataError(f"{self.path} has {what}. Give a file that has, or set keep_empty: true")
        self._check_files()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def num_instances(self) -> int:
        """Annotations of all images together."""
        return sum(len(self._found[plain_id(image["id"])]) for image in self._images)

    def where(self, n: int, source: str | None = None) -> str:
        """The file of image n, for errors."""
        return str(self.folder / str(self._images[n]["file_name"]))

    def read(self, n: int) -> Instances:
        """Image n and what is in it.

        Raises:
            DataError: if its file is missing or damaged, or has another size than the annotations are for.
        """
        entry = self._images[n]
        size = int(entry["height"]), int(entry["width"])
        try:
            image = np.array(open_image(Path(self.where(n)).read_bytes()).convert("RGB"))
        except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
            raise DataError(
                f"{self.where(n)}: cannot read it as an image: {str(error) or type(error).__name__}. Copy it again, or "
                f"remove it from {self.path}"
            ) from error
        if image.shape[:2] != size:
            raise self._wrong_size(n, image.shape[:2])
        found = self._found[plain_id(entry["id"])]
        boxes = np.array([_corners(one["bbox"]) for one in found], np.float32).reshape(-1, 4)
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, size[0])
        sides = boxes[:, 2:] - boxes[:, :2]
        return Instances(
            image=image,
            boxes=boxes,
            labels=np.array([self._labels[plain_id(one["category_id"])] for one in found], np.int64),
            masks=np.stack([mask_of(one["segmentation"], size) for one in found] or [np.zeros(size, bool)])[
                : len(found)
            ]
            if self.masks
            else None,
            crowd=np.array([bool(one.get("iscrowd")) for one in found], np.bool_),
            area=np.array([one.get("area", w * h) for one, (w, h) in zip(found, sides)], np.float32),
            key=plain_id(entry["id"]),
        )

    # ------------------------------------------------------------ checks

    def _categories(self, content: Mapping[str, Any]) -> dict[Any, Entry]:
        found = coco_json.by_id(content["categories"], "name", self.path)
        return dict(sorted(found.items(), key=lambda item: str(item[0]) if _has_text(found) else item[0]))

    def _match(self, categories: Mapping[Any, str], classes: Sequence[str] | None, only: bool) -> tuple[str, ...]:
        """The classes of the labels.

        Raises:
            ConfigError: if they are not the categories of the file.
        """
        names = list(categories.values())
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or not names:
            what = f"two categories are called '{twice}'" if names else "there are no categories"
            raise ConfigError(f"{self.path}: {what}. Every class needs one of its own")
        wanted = tuple(names if classes is None else classes)
        for name in wanted:
            if name not in names:
                raise ConfigError(f"{self.path}: class '{name}' is none of its categories.{did_you_mean(name, names)}")
        other = [name for name in names if name not in wanted]
        if other and not only:
            raise ConfigError(
                f"{self.path} has the category '{other[0]}', which is none of the {len(wanted)} classes of the head. "
                f"Known: {', '.join(wanted[:30])}. Give data with these categories, or name the classes to use "
                "(`classes`), which leaves out all others"
            )
        return wanted

    def _checked(self, images: Mapping[Any, Entry], found: Mapping[Any, list[Entry]]) -> dict[Any, list[Entry]]:
        """The annotations of each image that are used."""
        kept: dict[Any, list[Entry]] = {}
        problems: list[str] = []
        for n, image in images.items():
            if not all(isinstance(image.get(side), int) and image[side] > 0 for side in ("width", "height")):
                raise DataError(f"{self.path}: image {n} ('{image['file_name']}') has no width and height in pixels")
            kept[n] = []
            for one in found.get(n, ()):
                problem = self._problem(one, image)
                if problem:
                    problems.append(f"annotation {one.get('id')} of image '{image['file_name']}': {problem}")
                elif plain_id(one["category_id"]) in self._labels:
                    kept[n].append(one)
        if problems and self.config.invalid == "error":
            raise DataError(
                f"{self.path}: {problems[0]}. {len(problems):,} of its annotations cannot be right: correct them, or "
                "leave them out with invalid: skip"
            )
        if problems:
            _LOG.warning("%s: %d annotations are left out, such as %s", self.path, len(problems), problems[0])
        empty = sum(min(_sides(one["bbox"])) == 0 for entries in kept.values() for one in entries)
        if empty:  # COCO's own files have some
            _LOG.warning("%s: %d boxes without width or height are left out", self.path, empty)
            kept = {n: [one for one in entries if min(_sides(one["bbox"])) > 0] for n, entries in kept.items()}
        return kept

    def _problem(self, one: Entry, image: Entry) -> str:
        """Why an annotation cannot be right; empty if it can."""
        box = one.get("bbox")
        try:
            x1, y1, x2, y2 = _corners(box)
        except (TypeError, ValueError):
            return f"bbox is {box!r}; expected four numbers x, y, width, height"
        if not math.isfinite(x1 + y1 + x2 + y2) or x2 < x1 or y2 < y1:
            return f"bbox is {box!r}; expected finite x, y and a width and height of 0 or more"
        width, height = image["width"], image["height"]
        if min(x1, y1) < -_SLACK or x2 > width + _SLACK or y2 > height + _SLACK:
            return f"bbox {box!r} (x, y, width, height) reaches outside its image of {width} x {height} pixels"
        if plain_id(one.get("category_id")) not in self._known:
            return f"category_id is {one.get('category_id')!r}, which is none of the file's categories"
        return _segmentation_problem(one.get("segmentation"), (height, width)) if self.masks else ""

    def _check_files(self) -> None:
        """Look at some of the images, evenly spaced: whether they are there and have the size of the annotations."""
        step = max(1, len(self) // _LOOKED_AT)
        for n in range(0, len(self), step):
            try:
                size = open_image(Path(self.where(n)).read_bytes()).size[::-1]
            except (OSError, DataError) as error:
                raise DataError(
                    f"{self.where(n)}: cannot read it as an image: {error}. It is named in {self.path}; is "
                    f"images: {self.config.images} the right folder?"
                ) from None
            if size != (self._images[n]["height"], self._images[n]["width"]):
                raise self._wrong_size(n, size)

    def _wrong_size(self, n: int, size: Sequence[int]) -> DataError:
        entry = self._images[n]
        return DataError(
            f"{self.where(n)}: the image has {size[1]} x {size[0]} pixels, but {self.path} says {entry['width']} x "
            f"{entry['height']} (width x height), so that its boxes and masks would not lie on it. Give the "
            "images that were annotated"
        )


def mask_of(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an annotation, its polygons drawn as COCO's own tools do.

    Args:
        segmentation: polygons, or runs of pixels.
        size: (height, width) of the image.

    Raises:
        MissingExtraError: if pycocotools is not installed.
        DataError: if it is neither, or of another size.
    """
    if isinstance(segmentation, Mapping):
        return segmentation_mask(segmentation, size, size)
    tools = coco_tools("masks of polygons")
    outlines = [np.asarray(one, np.float64).tolist() for one in segmentation]
    merged = tools.merge(tools.frPyObjects(outlines, *size))
    return np.asarray(tools.decode(merged), np.bool_)


def coco_tools(purpose: str) -> Any:
    """The module `pycocotools.mask`.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise MissingExtraError("pycocotools", "detection", purpose) from None
    return mask


def _segmentation_problem(segmentation: Any, size: tuple[int, int]) -> str:
    if isinstance(segmentation, Mapping):
        given = segmentation.get("size")
        if not isinstance(given, list) or tuple(given) != size:
            return (
                f"its mask is for {given} pixels (height, width), but its image has {list(size)}; masks need the size "
                "of their image"
            )
        return "" if isinstance(segmentation.get("counts"), str | list) else "its mask has no counts of runs"
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str) or not len(segmentation):
        return f"segmentation is {segmentation!r:.60}; expected polygons or runs of pixels"
    for outline in segmentation:
        corners = np.asarray(outline)
        if corners.dtype.kind not in "fiu" or corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            return "a polygon of its segmentation is not a list x, y, x, y, ... of three or more corners"
        if not np.isfinite(corners).all():
            return "a polygon of its segmentation has corners that are not finite"
    return ""


def _corners(box: Any) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of x, y, width, height."""
    x, y, width, height = (float(number) for number in box)
    return x, y, x + width, y + height


def _sides(box: Any) -> tuple[float, float]:
    return float(box[2]), float(box[3])


def _has_text(ids: Mapping[Any, Any]) -> bool:
    return any(isinstance(n, str) for n in ids)
