"""The losses of recent steps, kept on the device until they are wanted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fourm.errors import TrainingError
from fourm.train.distributed import World


class LossLedger:
    """Notes each step's losses without waiting for the device; gives exact means over steps, ranks and micro-batches.

    Args:
        parts: names of the parts of the loss.
        capacity: most steps between two readings.
        world: the ranks whose losses add up.
    """

    def __init__(self, parts: tuple[str, ...], capacity: int, world: World) -> None:
        self.parts = parts
        self.world = world
        self._device = torch.zeros(capacity, 1 + len(parts), device=world.device)
        self._filled = 0
        self._totals: list[list[float]] = []
        # One row per step since the last record: loss, then each part's sum, then each part's count, over all ranks.
        self.pending: list[list[float]] = []

    def add(self, values: Tensor, totals: list[float]) -> None:
        """Note one step.

        Args:
            values: (1 + parts,) this rank's share of the loss and its sums per part, on the device.
            totals: count per part over all ranks.
        """
        self._device[self._filled].copy_(values)
        self._filled += 1
        self._totals.append(totals)

    def read(self, last_step: int) -> None:
        """Bring what was noted to the host and check it; every rank must call this at the same step.

        Args:
            last_step: steps done so far.

        Raises:
            TrainingError: if a loss is not finite, naming the first such step and part.
        """
        if not self._filled:
            return
        rows = self.world.sum(self._device[: self._filled].cpu().double()).tolist()
        first = last_step - self._filled + 1
        self.pending += [row + totals for row, totals in zip(rows, self._totals, strict=True)]
        self._filled, self._totals = 0, []
        for step, row in enumerate(rows, start=first):
            if not all(map(math.isfinite, row)):
                bad = [part for part, value in zip(self.parts, row[1:], strict=True) if not math.isfinite(value)]
                value = next(v for v in row if not math.isfinite(v))
                raise TrainingError(f"the loss is {value} at step {step} (part: {', '.join(bad) or 'the total'})")

    def record(self) -> dict[str, float]:
        """Mean loss since the last record and mean of each part that occurred; forgets them."""
        rows, n = self.pending, len(self.parts)
        self.pending = []
        record = {"loss": math.fsum(row[0] for row in rows) / len(rows)}
        for i, part in enumerate(self.parts):
            total = math.fsum(row[1 + n + i] for row in rows)
            if total:
                record[f"loss/{part}"] = math.fsum(row[1 + i] for row in rows) / total
        return record
