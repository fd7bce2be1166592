"""Boxes in the text files that YOLO (Redmon et al. 2016) is trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fourm.errors import DataError, did_you_mean
from fourm.prepare.labelers.annotation_configs import YoloConfig
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.boxes import Box, instances
from fourm.prepare.photos.names import beside, split


class Yolo:
    """Photographs to boxes, from the text file beside each."""

    def __init__(self, config: YoloConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [self._label(photo) for photo in photos]

    def _label(self, photo: Photo) -> bytes:
        c = self.config
        name = beside(c.file, split(photo.origin.file)[0])
        data = photo.beside.get(c.file)
        if data is None:
            if c.missing == "empty":
                return instances((), (1, 1))
            raise DataError(f"there is no file {name}; missing: empty takes it as nothing to see")
        boxes = []
        for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
            if line.strip():
                try:
                    boxes.append(self._box(line.split()))
                except ValueError as error:
                    raise DataError(f"{name}, line {number}: {error}") from None
        # Shares do not tell the shape of the picture, so `auto` takes them as upright.
        return instances(boxes, (1, 1), photo.origin.orientation if c.orientation == "file" else 1)

    def _box(self, words: list[str]) -> Box:
        numbers = [float(word) for word in words[1:]]
        known = [str(i) for i in range(len(self.config.classes))]
        if words[0] not in known:
            raise ValueError(f"class {words[0]}, but classes has {len(known)} names.{did_you_mean(words[0], known)}")
        if not all(map(math.isfinite, numbers)) or not (
            len(numbers) in (4, 5) or (len(numbers) >= 6 and len(numbers) % 2 == 0)
        ):
            raise ValueError(f"{len(numbers)} numbers behind the class; expected x y width height, or an outline")
        if not all(-0.01 <= number <= 1.01 for number in numbers):
            raise ValueError("numbers beyond 1; expected shares of the picture, not pixels")
        name = self.config.classes[int(words[0])]
        if len(numbers) <= 5:
            x, y, width, height = numbers[:4]
            return name, x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return name, min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
