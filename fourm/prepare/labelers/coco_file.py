"""Annotations of many photographs in one JSON file, as COCO has them (Lin et al. 2014)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fourm.data import coco_json
from fourm.data.coco_json import Entry, plain_id
from fourm.data.decode import VOID as VOID_ID
from fourm.data.encode import png
from fourm.data.regions import segmentation_mask
from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.prepare.checks import without_control
from fourm.prepare.labelers.annotation_configs import CocoConfig
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.boxes import Box, instances
from fourm.prepare.labelers.file_configs import VOID
from fourm.prepare.labelers.tables import Names, plain_name
from fourm.prepare.upright import turn_for, turn_pixels

_USED = {"boxes": {"bbox", "iscrowd"}, "semseg": {"segmentation", "size", "counts"}, "captions": {"caption"}}


class CocoFile:
    """Photographs to boxes, a label map, or captions. The file is read once; only what is used of it is kept.

    Raises:
        ConfigError: if it is not such a file, has not the categories asked for, or its ids do not tell what is meant.
    """

    def __init__(self, config: CocoConfig, device: str) -> None:
        self.config = config
        path = Path(config.file)
        content = coco_json.read(path, coco_json.COMMON | _USED[config.make])
        try:
            images = coco_json.by_id(content["images"], "file_name", path)
            self._images = _by_name(images.values(), path)
            self._annotations = coco_json.by_image(content["annotations"], images, path)
            categories = content["categories"] if config.make != "captions" else ()
            self._categories = {n: str(one["name"]) for n, one in coco_json.by_id(categories, "name", path).items()}
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
        found = self._annotations.get(plain_id(image["id"]), []) if image else []
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
            name = self._categories.get(plain_id(annotation["category_id"]))
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


def _captions(found: Sequence[Entry]) -> bytes:
    texts = [without_control(str(annotation["caption"])).strip() for annotation in found]
    return json.dumps([text for text in texts if text] or "").encode()
