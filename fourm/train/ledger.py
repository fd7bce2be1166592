"""The losses of recent steps, kept on the device until they are wanted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fourm.train.distributed import World
from fourm.train.guard import BadStepError, Guard, NotFiniteError


class LossLedger:
    """Notes each step's losses without waiting for the device; gives exact means over steps, ranks and micro-batches.

    Args:
        parts: names of the parts of the loss.
        capacity: most steps between two readings.
        world: the ranks whose losses add up.
        guard: knows of other steps with which something is wrong, and which are tolerated: these are left out of
            means and counted as `skipped`. None: no loss may be not finite.
    """

    def __init__(self, parts: tuple[str, ...], capacity: int, world: World, guard: Guard | None = None) -> None:
        self.parts = parts
        self.world = world
        self.guard = guard
        self._device = torch.zeros(capacity, 1 + len(parts), device=world.device)
        self._found = torch.zeros(capacity, Guard.width, device=world.device)
        self._filled = 0
        self._totals: list[list[float]] = []
        # One row per step since the last record: loss, then each part's sum, then each part's count, over all ranks.
        # The loss of a step that is skipped is no number.
        self.pending: list[list[float]] = []

    def add(self, values: Tensor, totals: list[float]) -> None:
        """Note one step.

        Args:
            values: (1 + parts,) this rank's share of the loss and its sums per part, on the device.
            totals: count per part over all ranks.
        """
        self._device[self._filled].copy_(values)
        if self.guard is not None:
            self._found[self._filled].copy_(self.guard.found)
        self._filled += 1
        self._totals.append(totals)

    def read(self, last_step: int) -> None:
        """Bring what was noted to the host and check it; every rank must call this at the same step.

        Args:
            last_step: steps done so far.

        Raises:
            NotFiniteError: if more losses in a row than tolerated are not finite, naming the last such step and part.
            BadStepError: the same for what the guard knows of.
        """
        if not self._filled:
            return
        rows = self.world.sum(self._device[: self._filled].cpu().double()).tolist()
        found, counts = self._found[: self._filled].tolist(), self._totals
        first = last_step - self._filled + 1
        self._filled, self._totals = 0, []
        for i, row in enumerate(rows):
            error = self._error(row, found[i], first + i)
            tolerated = self.guard is not None and self.guard.tolerates(error)
            if error is not None and not tolerated:
                raise error
            self.pending.append([row[0] if error is None else math.nan, *row[1:], *counts[i]])

    def _error(self, row: list[float], found: list[float], step: int) -> BadStepError | None:
        """What is wrong with a step."""
        if not _is_finite(row):
            bad = [part for part, value in zip(self.parts, row[1:], strict=True) if not math.isfinite(value)]
            value = next(v for v in row if not math.isfinite(v))
            return NotFiniteError(f"the loss is {value} at step {step} (part: {', '.join(bad) or 'the total'})")
        return None if self.guard is None else self.guard.error(found, row[0], step)

    def forget(self, pending: list[list[float]]) -> None:
        """Go back to what was noted at a checkpoint."""
        self.pending, self._filled, self._totals = pending, 0, []

    def record(self) -> dict[str, float]:
        """Mean loss since the last record and mean of each part that occurred; forgets them."""
        n = len(self.parts)
        rows = [row for row in self.pending if _is_finite(row)]
        skipped = len(self.pending) - len(rows)
        self.pending = []
        record = {"loss": math.fsum(row[0] for row in rows) / len(rows) if rows else math.nan}
        if skipped:
            record["skipped"] = float(skipped)
        for i, part in enumerate(self.parts):
            total = math.fsum(row[1 + n + i] for row in rows)
            if total:
                record[f"loss/{part}"] = math.fsum(row[1 + i] for row in rows) / total
        return record


def _is_finite(row: list[float]) -> bool:
    return all(map(math.isfinite, row))
