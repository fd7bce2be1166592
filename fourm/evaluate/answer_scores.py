"""How good the answers to a data set are: depth up to a scale, boxes without scores, captions of several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fourm.evaluate import metrics
from fourm.evaluate.detections import DetectionScore
from fourm.tokenizers.structured import text_to_boxes


class DepthErrors:
    """Errors of depth, the mean over images; pixels at or below 0 are unknown.

    Args:
        alignment: see `AnswersEvaluation.depth_alignment`.
    """

    def __init__(self, alignment: str) -> None:
        self.alignment = alignment
        self.sums = torch.zeros(5, dtype=torch.float64)

    def add(self, depth: Tensor, truth: Tensor) -> None:
        """(B, 1, H, W) each."""
        if self.alignment != "none":
            align = metrics.align_depth if self.alignment == "scale_shift" else metrics.align_median
            depth = align(depth, truth).view(truth.shape)
        errors = metrics.depth_errors(depth, truth)
        self.sums += torch.cat([errors.sum(0), errors.new_tensor([len(errors)])]).cpu()

    def result(self) -> dict[str, float]:
        """`abs_rel`, `delta1`, `rmse` in metres."""
        delta1, abs_rel, rmse, _, count = self.sums.tolist()
        named = (("abs_rel", abs_rel), ("delta1", delta1), ("rmse", rmse))
        return {name: value / count if count else float("nan") for name, value in named}


class BoxScore:
    """Average precision of boxes that a model wrote as text.

    Text has no scores. Of the boxes of an image those that are written first count as surer, whatever their class.
    """

    def __init__(self, num_bins: int = 1000) -> None:
        self.num_bins = num_bins
        self.pairs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []

    def add(self, texts: Sequence[str], truth: Sequence[list[dict[str, Any]]]) -> None:
        """Texts, and the instances that are there."""
        for text, true in zip(texts, truth, strict=True):
            self.pairs.append((text_to_boxes(text, num_bins=self.num_bins), list(true)))

    def result(self) -> dict[str, float]:
        """`box_ap`, `box_ap50`.

        Raises:
            DataError: if no sample has a box.
        """
        names = sorted({str(one["class_name"]) for pair in self.pairs for side in pair for one in side})
        score = DetectionScore(names, masks=False)
        for found, true in self.pairs:
            given = _instances(found, names)
            given["scores"] = torch.linspace(1.0, 0.5, len(found) + 1)[:-1]
            score.add([given], [_instances(true, names)])
        values = score.values()
        return {name: values[name] for name in ("box_ap", "box_ap50") if name in values}


def _instances(boxes: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([list(one["boxes"]) for one in boxes], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([names.index(str(one["class_name"])) + 1 for one in boxes], dtype=torch.int64),
    }


class CaptionScore:
    """BLEU of up to four words (Papineni et al. 2002) against all captions of a sample, lower case, by words."""

    def __init__(self) -> None:
        from torchmetrics.text import BLEUScore

        self._metric = BLEUScore(n_gram=4)

    def add(self, texts: Sequence[str], truth: Sequence[str | list[str]]) -> None:
        """Captions, and one or several true ones of each sample."""
        references = [[one] if isinstance(one, str) else list(one) for one in truth]
        self._metric.update([text.lower() for text in texts], [[one.lower() for one in some] for some in references])

    def result(self) -> dict[str, float]:
        """`bleu4`."""
        return {"bleu4": float(self._metric.compute())}
