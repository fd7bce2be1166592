"""The differentiable part of a step: an objective's loss inside a module, as data parallelism wants it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fourm.objectives.base import Objective


class LossModule(nn.Module):
    """Runs the objective on the plain model, so that objectives may use the model's methods under data parallelism too.

    Args:
        model: to be trained.
        objective: scores it; its frozen modules stay outside.
        device_type: for autocast.
        bf16: compute in bfloat16 where autocast does; weights stay float32.
    """

    def __init__(self, model: nn.Module, objective: Objective, device_type: str, bf16: bool) -> None:
        super().__init__()
        self.model = model
        # In a tuple, as an objective that is itself a module must not be registered with its teachers.
        self._objective = (objective,)
        self._device_type, self._bf16 = device_type, bf16

    def forward(self, batch: Any, totals: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Loss of one micro-batch.

        Args:
            batch: on the device.
            totals: count per part over all ranks and micro-batches of the step.

        Returns:
            () this micro-batch's share of the step's loss, and (1 + parts,) the same and the sums per part, detached.
        """
        objective = self._objective[0]
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            loss = objective.loss(self.model, batch)
        scalar = loss.scalar(totals)
        share = scalar.detach().float()
        sums = [
            loss.parts[part][0].detach().float() if part in loss.parts else torch.zeros_like(share)
            for part in objective.parts
        ]
        return scalar, torch.stack([share, *sums])
