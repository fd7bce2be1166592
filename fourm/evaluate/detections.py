"""Average precision of boxes and masks, as COCO measures it (Lin et al. 2014), summed up over a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fourm.errors import DataError, MissingExtraError

Found = Mapping[str, Tensor]
_KINDS = {"bbox": "box", "segm": "mask"}
_VALUES = {"map": "ap", "map_50": "ap50", "map_75": "ap75", "map_small": "ap_small", "map_medium": "ap_medium"} | {
    "map_large": "ap_large", "mar_100": "ar100",
}  # fmt: skip


class DetectionScore:
    """AP over IoU .5 to .95, averaged over the classes that occur, for boxes and masks.

    Args:
        classes: names of the labels from 1.
        masks: whether masks are measured too.

    Raises:
        MissingExtraError: if pycocotools is not installed.
    """

    def __init__(self, classes: Sequence[str], *, masks: bool = True) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        self.classes, self.masks = tuple(classes), masks
        self.num_images = self.num_instances = 0
        kinds: Any = tuple(_KINDS) if masks else ("bbox",)
        try:
            # torchmetrics' own are rounded to float32: an IoU of .6 would then not reach .6.
            self._metric = MeanAveragePrecision(
                iou_type=kinds,
                class_metrics=True,
                iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
                rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
            )
        except ModuleNotFoundError:
            raise MissingExtraError("pycocotools", "detection", "average precision") from None

    def add(self, found: Sequence[Found], truth: Sequence[Found]) -> None:
        """Add images.

        Args:
            found: of each image `boxes` (n, 4) x1, y1, x2, y2, `labels` and `scores` (n,), and `masks` (n, H, W) bool.
            truth: of each image `boxes`, `labels`, `masks`, and where they are known `iscrowd` and `area` (n,). What
                overlaps a crowd is neither right nor wrong.
        """
        self.num_images += len(truth)
        self.num_instances += sum(len(one["labels"]) for one in truth)
        self._metric.update([self._prepared(one) for one in found], [self._prepared(one) for one in truth])

    def values(self, *, by_class: bool = False) -> dict[str, float]:
        """`box_ap`, `box_ap50`, `box_ap75`, `box_ap_small`, ... `mask_ap`, ...; also `box_ap/CLASS` if asked for.

        What does not occur in the truth, such as small things, has no value.

        Raises:
            DataError: if there is nothing to measure on.
        """
        if not self.num_instances:
            raise DataError(
                f"there is nothing to measure average precision on: {self.num_images} images without any instance. "
                "Give data with annotations of these classes"
            )
        found = self._metric.compute()
        values: dict[str, float] = {}
        for kind, name in _KINDS.items():
            prefix = f"{kind}_" if self.masks else ""
            if kind == "segm" and not self.masks:
                continue
            values |= {f"{name}_{ours}": float(found[prefix + theirs]) for theirs, ours in _VALUES.items()}
            if by_class:
                labels = found["classes"].reshape(-1).tolist()
                each = found[f"{prefix}map_per_class"].reshape(-1).tolist()
                values |= {f"{name}_ap/{self.classes[k - 1]}": value for k, value in zip(labels, each)}
        return {name: value for name, value in values.items() if value >= 0}

    def _prepared(self, one: Found) -> dict[str, Tensor]:
        wanted = ("boxes", "labels", "scores", "iscrowd", "area", *(("masks",) if self.masks else ()))
        prepared = {name: one[name].detach().cpu() for name in wanted if name in one}
        if self.masks:
            prepared["masks"] = prepared["masks"].bool()
        return prepared
