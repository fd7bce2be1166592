"""Average precision of boxes and masks, as COCO measures it (Lin et al. 2014), summed up over a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.data.coco import coco_tools
from fourm.errors import DataError

Found = Mapping[str, Any]
_FIELDS = ("boxes", "labels", "scores", "iscrowd", "area")
_KINDS = {"bbox": "box", "segm": "mask"}
_VALUES = {"map": "ap", "map_50": "ap50", "map_75": "ap75", "map_small": "ap_small", "map_medium": "ap_medium"} | {
    "map_large": "ap_large", "mar_100": "ar100",
}  # fmt: skip


class DetectionScore:
    """AP over IoU .5 to .95, averaged over the classes that occur, for boxes and masks.

    Args:
        classes: names of the labels from 1.
        masks: whether masks are measured too.

    Attributes:
        pairs: what was found and what is there, image by image; those of ranks may be joined.

    Raises:
        MissingExtraError: if pycocotools is not installed.
    """

    def __init__(self, classes: Sequence[str], *, masks: bool = True) -> None:
        self.classes, self.masks = tuple(classes), masks
        self.pairs: list[tuple[Found, Found]] = []
        self._tools = coco_tools("average precision")

    def add(self, found: Sequence[Found], truth: Sequence[Found]) -> None:
        """Add images.

        Args:
            found: of each image `boxes` (n, 4) x1, y1, x2, y2, `labels` and `scores` (n,), and `masks` (n, H, W).
            truth: of each image `boxes`, `labels`, `masks`, and where they are known `iscrowd` and `area` (n,). What
                overlaps a crowd is neither right nor wrong.
        """
        self.pairs += zip(map(self._packed, found), map(self._packed, truth), strict=True)

    def values(self, *, by_class: bool = False) -> dict[str, float]:
        """`box_ap`, `box_ap50`, `box_ap75`, `box_ap_small`, ... `mask_ap`, ...; also `box_ap/CLASS` if asked for.

        What does not occur in the truth, such as small things, has no value.

        Raises:
            DataError: if there is nothing to measure on.
        """
        if not sum(len(truth["labels"]) for _, truth in self.pairs):
            raise DataError(
                f"there is nothing to measure average precision on: {len(self.pairs)} images without any instance. "
                "Give data with annotations of these classes"
            )
        found = self._measured()
        values: dict[str, float] = {}
        for kind, name in _KINDS.items() if self.masks else (("bbox", "box"),):
            prefix = f"{kind}_" if self.masks else ""
            values |= {f"{name}_{ours}": float(found[prefix + theirs]) for theirs, ours in _VALUES.items()}
            if by_class:
                labels = found["classes"].reshape(-1).tolist()
                each = found[f"{prefix}map_per_class"].reshape(-1).tolist()
                values |= {f"{name}_ap/{self.classes[k - 1]}": value for k, value in zip(labels, each)}
        return {name: value for name, value in values.items() if value >= 0}

    def _measured(self) -> dict[str, Tensor]:
        from torchmetrics.detection import MeanAveragePrecision

        # torchmetrics' own thresholds are rounded to float32: an IoU of .6 would then not reach .6.
        metric = MeanAveragePrecision(
            iou_type=tuple(_KINDS) if self.masks else ("bbox",),  # type: ignore[arg-type]
            class_metrics=True,
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
            sync_on_compute=False,  # every rank has all pairs
        )
        for found, truth in self.pairs:
            metric.update([self._unpacked(found)], [self._unpacked(truth)])
        computed: dict[str, Tensor] = metric.compute()
        return computed

    def _packed(self, one: Found) -> Found:
        """On the host, with masks as runs of pixels, so that a data set fits into memory."""
        packed = {name: one[name].detach().cpu() for name in _FIELDS if name in one}
        if self.masks:
            masks = np.asarray(one["masks"].detach().cpu().bool().permute(1, 2, 0).numpy(), np.uint8, order="F")
            packed["masks"] = (tuple(masks.shape[:2]), self._tools.encode(masks) if masks.shape[2] else [])
        return packed

    def _unpacked(self, one: Found) -> dict[str, Tensor]:
        unpacked = dict(one)
        if self.masks:
            size, runs = one["masks"]
            masks = np.asarray(self._tools.decode(runs)) if runs else np.zeros((*size, 0), np.uint8)
            unpacked["masks"] = torch.from_numpy(masks.copy()).permute(2, 0, 1).bool()
        return unpacked
