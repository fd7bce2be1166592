"""The contract between objectives and the trainer, and a loss whose mean is exact over accumulation steps and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

Reduction = Literal["token", "modality", "weighted"]


@dataclass(frozen=True)
class Loss:
    """Sums of one micro-batch, part by part, with the counts they are to be divided by.

    Args:
        parts: name -> (sum over this micro-batch, count known on the host).
        reduction: `token`: all sums over all counts; `modality`: mean over the parts of sum over count, where absent
            parts count as zero (the published `mod` loss); `weighted`: sum over the parts of weight times sum over
            count.
        weights: factor of each part; 1 where it has no entry.
    """

    parts: Mapping[str, tuple[Tensor, float]]
    reduction: Reduction = "token"
    weights: Mapping[str, float] = field(default_factory=dict)

    def scalar(self, totals: Mapping[str, float | Tensor]) -> Tensor:
        """This micro-batch's share of the loss of a whole step.

        Args:
            totals: part -> count summed over all micro-batches and ranks of the step. The shares of a step add up to
                its loss.
        """
        sums = {name: total * self.weights.get(name, 1.0) for name, (total, _) in self.parts.items()}
        if self.reduction == "token":
            divisor = sum(totals[name] * self.weights.get(name, 1.0) for name in sums)
            return torch.stack(list(sums.values())).sum() / _at_least_one(divisor)
        share = torch.stack([value / _at_least_one(totals[name]) for name, value in sums.items()]).sum()
        return share / len(sums) if self.reduction == "modality" else share


def _at_least_one(count: float | Tensor) -> float | Tensor:
    return count.clamp(min=1e-12) if isinstance(count, Tensor) else (count or 1.0)


class Objective(Protocol):
    """What is shown, what is asked, and how answers are scored. Loop, trunk and data know nothing of it.

    Attributes:
        parts: names of the parts of the loss, the same on every rank and step.
        frozen: networks it needs (teachers, target encoders); placed by the trainer, never trained or checkpointed.
    """

    parts: tuple[str, ...]
    frozen: dict[str, nn.Module]

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Any:
        """One training item from one sample; pure, runs in loader workers."""
        ...

    def collate(self, items: Sequence[Any]) -> Any:
        """A batch with `.to(device, non_blocking=...)`."""
        ...

    def counts(self, batch: Any) -> dict[str, float]:
        """The divisor of each part, known on the host before the forward pass."""
        ...

    def num_tokens(self, batch: Any) -> int:
        """Tokens the batch spends, for throughput and schedules."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        """Score the model on a batch, without synchronising with the device."""
        ...
