"""Annotations of many photographs in one JSON file, as COCO has them (Lin et al. 2014)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.decode import VOID as VOID_ID
from fourm.data.encode import png
from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.prepare.checks import without_control
from fourm.prepare.labelers.annotation_configs import CocoConfig
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.boxes import Box, instances
from fourm.prepare.labelers.file_configs import VOID
from fourm.prepare.labelers.regions import segmentation_mask
from fourm.prepare.labelers.tables import Names, plain_name
from fourm.prepare.upright import turn_for, turn_pixels

_COMMON = {
    "images", "annotations", "categories", "id", "file_name", "width", "height", "image_id", "category_id", "name",
}  # fmt: skip
_USED = {"boxes": {"bbox", "iscrowd"}, "semseg": {"segmentation", "size", "counts"}, "captions": {"caption"}}
Entry = dict[str, Any]


class CocoFile:
    """Photographs to boxes, a label map, or captions. The file is read once; only what is used of it is kept.

    Raises:
        ConfigError: if it is not such a file, has not the categories asked for, or its ids do not tell what is meant.
    """

    def __init__(self, config: CocoConfig, device: str) -> None:
        self.config = config
        path = Path(config.file)
        content = _read(path, _COMMON | _USED[config.make])
        try:
            images = _by_id(content["images"], "file_name", path)
            self._images = _by_name(images.values(), path)
            self._annotations = _by_image(content["annotations"], images, path)
            categories = content["categories"] if config.make != "captions" else ()
            self._categories = {n: str(one["name"]) for n, one in _by_id(categories, "name", path).items()}
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is not in COCO's form: expected images, annotations and categories with their ids; "
                f"{type(error).__name__} {error}"
            ) from None
        for name in config.classes:
            if name not in self._categories.values() and name != config.rest:
                hint = did_you_mean(name, self._categories.values())
                raise ConfigError(f"{path}: classes has '{name}', which is none of its categories.{hint}")
        self._names = Names(self._images, path.name)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [self._label(photo) for photo in photos]

    def _label(self, photo: Photo) -> bytes:
        c = self.config
        name = self._names.find(photo)
        if name is None and c.missing == "reject":
            raise self._names.unknown(photo)
        image = self._images[name] if name is not None else {}
        found = self._annotations.get(_id(image["id"]), []) if image else []
        try:
            if c.make == "captions":
                return _captions(found)
            upright = (photo.origin.height, photo.origin.width)
            size = (image["height"], image["width"]) if {"height", "width"} <= image.keys() else upright
            turn = turn_for(size, photo.origin, c.orientation)
            if c.make == "boxes":
                return instances(self._boxes(found), size, turn)
            return self._label_map(found, size, photo.image.shape[:2], turn)
        except DataError as error:
            raise DataError(f"{self._names.table}, {name}: {error}") from None
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(f"{self._names.table}, {name}: not in COCO's form: {error!r}") from None

    def _boxes(self, found: Sequence[Entry]) -> Iterator[Box]:
        for annotation, name in self._chosen(found):
            if self.config.crowd or not annotation.get("iscrowd"):
                x, y, width, height = (float(number) for number in annotation["bbox"])
                if not np.isfinite([x, y, width, height]).all():
                    raise DataError(f"bbox is {annotation['bbox']}")
                yield name, x, y, x + width, y + height

    def _chosen(self, found: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
        """Annotations of the classes asked for, and what these are called."""
        for annotation in found:
            name = self._categories.get(_id(annotation["category_id"]))
            if name is None:
                raise DataError(f"category_id {annotation['category_id']} is none of its categories")
            if not self.config.classes or name in self.config.classes:
                yield annotation, name

    def _label_map(self, found: Sequence[Entry], size: tuple[int, int], stored: tuple[int, int], turn: int) -> bytes:
        """Regions painted in the size of the stored photograph, the largest first."""
        c = self.config
        lying = stored if turn < 5 else stored[::-1]
        masks = [
            (segmentation_mask(annotation["segmentation"], size, lying), c.classes.index(name))
            for annotation, name in self._chosen(found)
        ]
        rest = VOID_ID if c.rest == VOID else c.classes.index(c.rest)
        ids = np.full(lying, rest, np.uint8 if len(c.classes) <= VOID_ID else np.uint16)
        for mask, class_id in sorted(masks, key=lambda one: -int(one[0].sum())):
            ids[mask] = class_id
        return png(np.ascontiguousarray(turn_pixels(ids, turn)))


def _id(given: Any) -> Any:
    """An id; a whole number that is written as text counts as the number, unless it begins with zeros."""
    is_number = isinstance(given, str) and re.fullmatch("0|[1-9][0-9]{,17}", given)
    return int(given) if is_number else given


def _by_id(entries: Iterable[Entry], name: str, path: Path) -> dict[Any, Entry]:
    """Images or categories by their id.

    Raises:
        ConfigError: if two have the same, so that annotations do not tell which is meant.
    """
    found: dict[Any, Entry] = {}
    for entry in entries:
        other = found.setdefault(_id(entry["id"]), entry)
        if other is not entry:
            raise ConfigError(
                f"{path}: '{other[name]}' and '{entry[name]}' both have the id {entry['id']!r}. Give each its own"
            )
    return found


def _by_name(images: Iterable[Entry], path: Path) -> dict[str, Entry]:
    """Images by the name of their file.

    Raises:
        ConfigError: if two have the same, since one would hide the annotations of the other.
    """
    found: dict[str, Entry] = {}
    for image in images:
        other = found.setdefault(plain_name(str(image["file_name"])), image)
        if other is not image:
            raise ConfigError(
                f"{path}: the images {other['id']!r} and {image['id']!r} both have the file_name "
                f"'{image['file_name']}'. Make them one, and give its id to the annotations of both"
            )
    return {str(image["file_name"]): image for image in found.values()}


def _by_image(annotations: Sequence[Entry], images: Mapping[Any, Entry], path: Path) -> dict[Any, list[Entry]]:
    """Annotations by the id of their image.

    Raises:
        ConfigError: if there is no such image.
    """
    found: dict[Any, list[Entry]] = defaultdict(list)
    for annotation in annotations:
        found[_id(annotation["image_id"])].append(annotation)
    lost = [number for number in found if number not in images]
    if lost:
        count = sum(len(found[number]) for number in lost)
        raise ConfigError(
            f"{path}: {count:,} of its {len(annotations):,} annotations have an image_id that none of its "
            f"{len(images):,} images has, such as {lost[0]!r}. Add the images, or remove these annotations"
        )
    return found


def _captions(found: Sequence[Entry]) -> bytes:
    texts = [without_control(str(annotation["caption"])).strip() for annotation in found]
    return json.dumps([text for text in texts if text] or "").encode()


def _read(path: Path, wanted: set[str]) -> dict[str, Any]:
    """The parts of a JSON file under some keys. The others are dropped while it is read, since files are large."""

    def keep(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: _compact(value) if key == "segmentation" else value for key, value in entry.items() if key in wanted
        }

    try:
        content = json.loads(path.read_bytes(), object_hook=keep)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not in COCO's form: expected images, annotations and categories")
    return content


def _compact(segmentation: Any) -> Any:
    """Polygons in an eighth of the memory."""
    try:
        return (
            [np.asarray(outline, np.float32) for outline in segmentation]
            if isinstance(segmentation, list)
            else segmentation
        )
    except (TypeError, ValueError):  # told of where it is used
        return segmentation
