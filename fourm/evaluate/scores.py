"""Metrics summed up over the batches of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Protocol

import torch
from torch import Tensor

from fourm.evaluate import metrics
from fourm.tokenizers.quantize import perplexity


class Score(Protocol):
    """Adds up one metric."""

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch."""

    def value(self) -> float:
        """The metric over everything added."""


class MeanScore:
    """Mean of a metric that has one value per image.

    Args:
        metric: (predicted, truth) -> (B,).
    """

    def __init__(self, metric: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._metric, self._sum, self._count = metric, 0.0, 0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch."""
        values = self._metric(predicted, truth)
        self._sum += float(values.sum())
        self._count += len(values)

    def value(self) -> float:
        """The mean over images."""
        return self._sum / max(self._count, 1)


class IoUScore:
    """Mean intersection over union of all pixels added.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch of label maps."""
        self._matrix += metrics.confusion(predicted.cpu(), truth.cpu(), self.num_classes)

    def value(self) -> float:
        """Averaged over the classes that occur."""
        return metrics.mean_iou(self._matrix)


class PsnrScore:
    """PSNR of the mean squared error over all values added, which lie in [0, 1]."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch."""
        self._sum += float((predicted.double() - truth.double()).square().sum())
        self._count += truth.numel()

    def value(self) -> float:
        """In dB."""
        error = torch.tensor([self._sum / max(self._count, 1)], dtype=torch.float64)
        return metrics.psnr(error.sqrt(), torch.zeros(1))


class RatioScore:
    """Sum of a quantity over what was predicted, over its sum over the truth.

    Args:
        quantity: images -> (B,), 0 or more.
    """

    def __init__(self, quantity: Callable[[Tensor], Tensor]) -> None:
        self._quantity, self._predicted, self._true = quantity, 0.0, 0.0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch."""
        self._predicted += float(self._quantity(predicted).sum())
        self._true += float(self._quantity(truth).sum())

    def value(self) -> float:
        """The ratio; not a number if the truth has nothing of the quantity."""
        return self._predicted / self._true if self._true > 0 else float("nan")


class ExplainedScore:
    """Share of the variance of vectors that a reconstruction explains; always giving their mean explains nothing."""

    def __init__(self) -> None:
        self._error, self._energy, self._count = 0.0, 0.0, 0
        self._sum: Tensor | float = 0.0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch (B, C, ...); dimensions after the second are places, which all share one mean."""
        predicted, truth = predicted.double(), truth.double()
        self._error += float((predicted - truth).square().sum())
        self._energy += float(truth.square().sum())
        self._sum = self._sum + truth.transpose(0, 1).flatten(1).sum(1)
        self._count += truth.numel() // truth.shape[1]

    def value(self) -> float:
        """1 is perfect, 0 the mean vector; not a number if all vectors are the same."""
        of_mean = float(torch.as_tensor(self._sum).square().sum()) / max(self._count, 1)
        variance = self._energy - of_mean
        return 1 - self._error / variance if variance > 1e-9 * self._energy else float("nan")


class CodeUsage:
    """How the tokens of a data set spread over the codes.

    Args:
        vocab_size: number of codes.
    """

    def __init__(self, vocab_size: int) -> None:
        self.counts = torch.zeros(vocab_size, dtype=torch.int64)

    def add(self, ids: Tensor) -> None:
        """Add ids of any shape."""
        self.counts += torch.bincount(ids.flatten().cpu(), minlength=len(self.counts))

    @property
    def num_tokens(self) -> int:
        """Ids added so far."""
        return int(self.counts.sum())

    def values(self) -> dict[str, float]:
        """`codes_used`: share of the codes that occur; `perplexity`: exp of the entropy of their frequencies."""
        return {
            "codes_used": float((self.counts > 0).double().mean()),
            "perplexity": float(perplexity(self.counts)),
        }


class NameScore:
    """Micro-averaged F1 of named against true sets."""

    def __init__(self) -> None:
        self._counts = metrics.SetCounts(0, 0, 0)

    def add(self, named: Iterable[Set[str]], true: Iterable[Set[str]]) -> None:
        """Add the sets of a batch."""
        added = metrics.set_counts(named, true)
        self._counts = metrics.SetCounts(*(a + b for a, b in zip(self._counts, added, strict=True)))

    def value(self) -> float:
        """F1 of the sums."""
        return self._counts.f1
