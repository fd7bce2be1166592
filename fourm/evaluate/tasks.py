"""Metrics of the supervised tasks as sums over samples, which add up over batches and ranks."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fourm.evaluate import metrics


class TaskScore(Protocol):
    """Adds up what a metric needs.

    Attributes:
        sums: float64 on the CPU; those of ranks may be added.
    """

    sums: Tensor

    def add(self, answer: Tensor, target: Tensor) -> None:
        """Score a batch."""
        ...

    def result(self) -> dict[str, float]:
        """The metrics; not a number where nothing was scored."""
        ...


class ClassificationScore:
    """Share of samples whose class is among the k likeliest, for k 1 and 5."""

    def __init__(self, num_classes: int) -> None:
        self.ks = [k for k in (1, 5) if k < num_classes]
        self.sums = torch.zeros(len(self.ks) + 1, dtype=torch.float64)

    def add(self, answer: Tensor, target: Tensor) -> None:
        """(B, C) scores, (B,) classes."""
        ranked = answer.float().topk(self.ks[-1], dim=1).indices == target[:, None]
        hits = [ranked[:, :k].any(1).sum() for k in self.ks]
        self.sums += torch.stack([*hits, torch.tensor(len(target), device=target.device)]).cpu().double()

    def result(self) -> dict[str, float]:
        """`top1` and, with more than five classes, `top5`."""
        *hits, count = self.sums.tolist()
        return {f"top{k}": hit / count if count else float("nan") for k, hit in zip(self.ks, hits)}


class SegmentationScore:
    """Intersection over union of the classes, and the share of pixels that are right."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.sums = torch.zeros(num_classes, num_classes, dtype=torch.float64)

    def add(self, answer: Tensor, target: Tensor) -> None:
        """(B, C, H, W) scores, (B, H, W) classes, -1 void."""
        self.sums += metrics.confusion(answer.argmax(1), target, self.num_classes).cpu().double()

    def result(self) -> dict[str, float]:
        """`miou` over the classes that occur, `pixel_accuracy`."""
        total = self.sums.sum()
        return {
            "miou": metrics.mean_iou(self.sums),
            "pixel_accuracy": float(self.sums.diagonal().sum() / total) if total else float("nan"),
        }


class DepthScore:
    """Errors of metres as they are, without a scale fitted to the image; the mean over images."""

    def __init__(self, min_depth: float, max_depth: float) -> None:
        self.range = min_depth, max_depth
        self.sums = torch.zeros(5, dtype=torch.float64)

    def add(self, answer: Tensor, target: Tensor) -> None:
        """(B, 1, H, W) metres."""
        errors = metrics.depth_errors(answer, target, *self.range)
        self.sums += torch.cat([errors.sum(0), errors.new_tensor([len(errors)])]).cpu()

    def result(self) -> dict[str, float]:
        """`delta1`, `abs_rel`, `rmse` in metres, `log10`."""
        *sums, count = self.sums.tolist()
        names = ("delta1", "abs_rel", "rmse", "log10")
        return {name: value / count if count else float("nan") for name, value in zip(names, sums)}


class NormalsScore:
    """Angles between directions, over all pixels that have one."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)

    def add(self, answer: Tensor, target: Tensor) -> None:
        """(B, 3, H, W) directions."""
        known = target.norm(dim=1) > 0.5
        angles = metrics.angles(answer, target)[known]
        self.sums += torch.stack([angles.sum(), (angles < 11.25).sum(), known.sum()]).cpu().double()

    def result(self) -> dict[str, float]:
        """`mean_angle` in degrees, `within_11` the share of pixels that are off by less than 11.25 degrees."""
        angle, within, count = self.sums.tolist()
        return {
            name: v / count if count else float("nan") for name, v in (("mean_angle", angle), ("within_11", within))
        }
