"""Boxes by networks of the transformers library (DETR, Carion et al. 2020)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from torch import Tensor

from fourm.catalog import COCO_THINGS
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.coco import NO_CLASS, as_coco
from fourm.prepare.labelers.network import Inputs, TransformersNetwork, check_finite
from fourm.prepare.labelers.network_configs import DetConfig

_DIGITS = 5


class Det(TransformersNetwork):
    """Photographs to JSON: their boxes with class and score, the surest first."""

    what = "detection network"
    model_class = "AutoModelForObjectDetection"

    def __init__(self, config: DetConfig, device: str) -> None:
        super().__init__(config, device)
        labels = self.model.config.id2label
        self._names = box_names([str(labels.get(number, NO_CLASS)) for number in range(max(labels) + 1)])

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        # As if of one pixel, so that coordinates come from 0 to 1.
        found = self.processor.post_process_object_detection(
            self.compute(inputs), threshold=self.config.threshold, target_sizes=[(1, 1)] * len(photos)
        )
        return [boxes_file(one["boxes"], one["scores"], one["labels"], self._names) for one in found]


def box_names(names: Sequence[str]) -> list[str | None]:
    """The classes of a network, by number, as the catalog calls them where they are COCO's; None where it has none."""
    return as_coco(names, COCO_THINGS) or [None if name == NO_CLASS else name for name in names]


def boxes_file(boxes: Tensor, scores: Tensor, labels: Tensor, names: Sequence[str | None]) -> bytes:
    """Boxes as `decode: boxes` reads them, without those of no area and no class.

    Args:
        boxes: (n, 4) left, top, right, bottom, as shares of the width and height.
        scores: (n,).
        labels: (n,) numbers of classes.
        names: of the classes.

    Raises:
        DataError: if there is NaN or infinity among the numbers.
    """
    corners = check_finite(boxes.float(), "detection network").clamp(0, 1).cpu()
    instances = []
    for row in check_finite(scores.float(), "detection network").argsort(descending=True, stable=True).tolist():
        left, top, right, bottom = (round(float(corner), _DIGITS) for corner in corners[row])
        name = names[int(labels[row])]
        if name is not None and right > left and bottom > top:
            score = round(float(scores[row]), _DIGITS)
            instances.append({"boxes": [left, top, right, bottom], "class_name": name, "score": score})
    return json.dumps({"instances": instances}).encode()
