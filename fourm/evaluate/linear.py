"""Ridge regression from a thumbnail of the image to dense targets: what a model has to beat to have learned more than colours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

THUMBNAIL = 16
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried ridge strengths, as shares of the mean variance of a feature."""

Score = Callable[[Tensor], float]


def thumbnail(rgb: Tensor, size: int = THUMBNAIL) -> Tensor:
    """(B, C, H, W) images as (B, C * size * size) block means."""
    return F.adaptive_avg_pool2d(rgb, size).flatten(1)


class Ridge:
    """Linear least squares with a penalty, from sums over batches: no sample is kept.

    With centred inputs X and targets Y, the weights are (X'X + n s v I)^-1 X'Y, where s is the strength and v the mean variance of an input.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: dict[str, Tensor] = {}
        self._eigen: tuple[Tensor, Tensor] | None = None

    def add(self, inputs: Tensor, targets: dict[str, Tensor]) -> None:
        """Add samples.

        Args:
            inputs: (B, d).
            targets: name -> (B, ...), the same names each time.
        """
        x = inputs.float()
        self._add("x", x.double().sum(0))
        self._add("xx", (x.T @ x).double())
        for name, target in targets.items():
            y = target.flatten(1).float()
            self._add(f"y/{name}", y.double().sum(0))
            self._add(f"xy/{name}", (x.T @ y).double())
        self._count += len(x)
        self._eigen = None

    def _add(self, name: str, value: Tensor) -> None:
        if name in self._sums:
            self._sums[name] += value
        else:
            self._sums[name] = value

    def weights(self, name: str, strength: float) -> tuple[Tensor, Tensor]:
        """Weights (d, o) and bias (o,) for one target."""
        mean_x, mean_y = self._sums["x"] / self._count, self._sums[f"y/{name}"] / self._count
        if self._eigen is None:
            covariance = self._sums["xx"] / self._count - torch.outer(mean_x, mean_x)
            self._eigen = tuple(torch.linalg.eigh(covariance))  # type: ignore[assignment]
        assert self._eigen is not None
        values, vectors = self._eigen
        cross = (self._sums[f"xy/{name}"] / self._count - torch.outer(mean_x, mean_y)).float()
        inverse = 1 / (values.clamp(min=0) + max(strength * float(values.mean()), 1e-9))
        rotation = vectors.float()
        weights = rotation @ (inverse.float()[:, None] * (rotation.T @ cross))
        return weights, mean_y.float() - mean_x.float() @ weights

    def best_strength(self, name: str, inputs: Tensor, score: Score, strengths: tuple[float, ...] = STRENGTHS) -> float:
        """The strength whose predictions on held-out inputs score lowest.

        Args:
            name: of the target.
            inputs: (B, d) that were not added.
            score: of predictions (B, o); lower is better.
            strengths: to try.
        """
        return min(strengths, key=lambda strength: score(predict(inputs, *self.weights(name, strength))))


def predict(inputs: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """(B, o) predictions of (B, d) inputs."""
    return inputs.float() @ weights + bias


def soft_labels(labels: Tensor, num_classes: int, factor: int = 2) -> Tensor:
    """Shares of the classes in blocks of a label map, as targets of a regression.

    Args:
        labels: (B, H, W); void belongs to no class.
        num_classes: number of classes.
        factor: side of a block in pixels.

    Returns:
        (B, num_classes, H / factor, W / factor).
    """
    shares = [F.avg_pool2d((labels == c).float()[:, None], factor) for c in range(num_classes)]
    return torch.cat(shares, 1)


def hard_labels(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) labels from class scores (B, C, h, w), enlarged smoothly before the largest is taken."""
    return F.interpolate(scores, size, mode="bilinear", align_corners=False).argmax(1)
