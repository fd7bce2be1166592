"""Ridge regression from a thumbnail: what a model has to beat to have learned more than where which colours are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

THUMBNAIL = 16
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Tried ridge strengths, as shares of the mean variance of a feature."""

Score = Callable[[Tensor], float]


def thumbnail(rgb: Tensor, size: int = THUMBNAIL) -> Tensor:
    """(B, C, H, W) images as (B, C * size * size) block means."""
    return F.adaptive_avg_pool2d(rgb, size).flatten(1)


class Ridge:
    """Linear least squares with a penalty, from sums over batches: no sample is kept.

    With n centred inputs X and targets Y, the weights are (X'X + n s v I)^-1 X'Y, where s is the strength and v the
    mean variance of an input.
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
        _, vectors = self._spectrum()
        weights = vectors @ (self._shrink(strength) * self._rotated(name))
        mean_x, mean_y = self._mean("x").float(), self._mean(f"y/{name}").float()
        return weights, mean_y - mean_x @ weights

    def best_strength(self, name: str, inputs: Tensor, score: Score, strengths: tuple[float, ...] = STRENGTHS) -> float:
        """The strength whose predictions on held-out inputs score lowest.

        Args:
            name: of the target.
            inputs: (B, d) that were not added.
            score: of predictions (B, o); lower is better.
            strengths: to try.
        """
        _, vectors = self._spectrum()
        rotated = self._rotated(name)
        centred = (inputs.float() - self._mean("x").float()) @ vectors
        mean_y = self._mean(f"y/{name}").float()
        return min(strengths, key=lambda s: score(centred @ (self._shrink(s) * rotated) + mean_y))

    def _mean(self, name: str) -> Tensor:
        return self._sums[name] / self._count

    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the inputs' covariance: one decomposition for all strengths and targets."""
        if self._eigen is None:
            values, vectors = torch.linalg.eigh(self._mean("xx") - torch.outer(self._mean("x"), self._mean("x")))
            self._eigen = values.clamp(min=0), vectors.float()
        return self._eigen

    def _rotated(self, name: str) -> Tensor:
        """(d, o) covariance of inputs and target, in the basis of the eigenvectors."""
        cross = self._mean(f"xy/{name}") - torch.outer(self._mean("x"), self._mean(f"y/{name}"))
        return self._spectrum()[1].T @ cross.float()

    def _shrink(self, strength: float) -> Tensor:
        """(d, 1) inverse eigenvalues under the penalty."""
        values, _ = self._spectrum()
        return (1 / (values + max(strength * float(values.mean()), 1e-9))).float()[:, None]


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
