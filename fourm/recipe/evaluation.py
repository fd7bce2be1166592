"""Mean losses over an evaluation set, exact over ranks and batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fourm.objectives.base import Loss, Objective
from fourm.train.distributed import World


class MeanLoss:
    """Adds up the parts of a loss over batches and ranks.

    Args:
        objective: scores the batches.
        world: the processes that share the set.
        bf16: compute as in bf16 training.
    """

    def __init__(self, objective: Objective, world: World, *, bf16: bool) -> None:
        self.objective, self.world, self.bf16 = objective, world, bf16
        self.sums = torch.zeros(len(objective.parts), dtype=torch.float64)
        self.counts = torch.zeros(len(objective.parts), dtype=torch.float64)
        self.form = Loss({})

    def add(self, model: nn.Module, batch: Any) -> None:
        """Score one batch."""
        device = self.world.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.objective.loss(model, batch.to(device))
        self.form = loss
        self.sums += torch.stack([_host(loss.parts[part][0]) for part in self.objective.parts])
        self.counts += torch.tensor([float(loss.parts[part][1]) for part in self.objective.parts], dtype=torch.float64)

    def result(self) -> dict[str, float]:
        """`loss`, reduced over the whole set as in training, and `loss/PART` for every part that occurred."""
        names = self.objective.parts
        sums, counts = self.world.sum(self.sums), self.world.sum(self.counts).tolist()
        parts = {name: (total, count) for name, total, count in zip(names, sums, counts, strict=True)}
        whole = Loss(parts, self.form.reduction, self.form.weights).scalar(dict(zip(names, counts, strict=True)))
        return {"loss": float(whole), **{f"loss/{p}": float(s / n) for p, (s, n) in parts.items() if n > 0}}


def _host(value: Tensor) -> Tensor:
    return value.detach().cpu().double()  # not every device has float64
