"""Steps whose gradient is not finite, and spikes: steps that are finite and yet far from those before them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fourm.errors import TrainingError
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World

_FINE, _NOT_FINITE, _LONG_GRADIENT, _NORM_SPIKE, _LOSS_SPIKE = range(5)


class BadStepError(TrainingError):
    """A step that training should not have taken."""


class NotFiniteError(BadStepError):
    """Losses, gradients or weights are not finite."""


class SpikeError(BadStepError):
    """A gradient or a loss is far larger than before."""


def policy(error: BadStepError, config: TrainConfig) -> str:
    """What the recipe wants done about a step: stop, skip or rollback."""
    return config.on_nan if isinstance(error, NotFiniteError) else config.on_spike


class Guard:
    """Judges steps where the gradient is, so that leaving an update out waits for nothing; the host reads it later.

    Every rank comes to the same: the gradient norm and the loss are those of all ranks.

    Args:
        config: the recipe's `train` part: `on_nan`, `on_spike`, `max_nan` and `spike`.
        world: the ranks that take each step together.
    """

    width = 4
    """Numbers that are kept of a step."""

    def __init__(self, config: TrainConfig, world: World) -> None:
        self._config, self._world, self._limit, self._spike = config, world, config.grad_limit, config.spike
        skips_spikes = config.on_spike == "skip" and config.knows_spikes
        spikes = [_LONG_GRADIENT, _NORM_SPIKE, _LOSS_SPIKE]
        self._skipped = [_NOT_FINITE] * (config.on_nan == "skip") + spikes * skips_spikes
        self._in_a_row = 0
        self._norms = _Recent(config.spike.window, world) if config.spike.grad_ratio is not None else None
        self._losses = _Recent(config.spike.window, world) if config.spike.loss_ratio is not None else None
        self.found = torch.zeros(self.width, device=world.device)

    @classmethod
    def of(cls, config: TrainConfig, world: World) -> Guard | None:
        """The guard of a run; None where no step's gradient has to be known: nothing is skipped, a spike or clipped."""
        clips = config.optimizer.clip_grad is not None
        return cls(config, world) if config.on_nan == "skip" or config.knows_spikes or clips else None

    @torch.no_grad()
    def leaves_out(self, norm: Tensor, loss: Tensor, step: int) -> Tensor | None:
        """Judge a step; `found` then holds what there is to say of it.

        Args:
            norm: () gradient norm over all ranks.
            loss: () this rank's share of the loss.
            step: steps done before this one.

        Returns:
            () bool, whether its update is left out; None: no update ever is.
        """
        norm = norm.float()
        fault, usual_norm, usual_loss = torch.zeros_like(norm), torch.zeros_like(norm), torch.zeros_like(norm)
        if self._losses is not None or _NOT_FINITE in self._skipped:
            loss = self._world.sum(loss.detach().float().clone())
        if self._losses is not None:
            usual_loss = self._losses.median()
            is_spike = (usual_loss > 0) & (loss > (self._spike.loss_ratio or 0.0) * usual_loss)
            fault = fault.masked_fill(is_spike, _LOSS_SPIKE)
            self._losses.add(loss, step)
        if self._norms is not None:
            usual_norm = self._norms.median()
            is_spike = (usual_norm > 0) & (norm > (self._spike.grad_ratio or 0.0) * usual_norm)
            fault = fault.masked_fill(is_spike, _NORM_SPIKE)
            self._norms.add(norm, step)
        if self._limit is not None:
            fault = fault.masked_fill(norm >= self._limit, _LONG_GRADIENT)
        fault = fault.masked_fill(~(norm.isfinite() & loss.isfinite()), _NOT_FINITE)
        self.found = torch.stack([fault, norm, usual_norm, usual_loss])
        if not self._skipped:
            return None
        skips = torch.zeros_like(fault, dtype=torch.bool)
        for kind in self._skipped:
            skips = skips | (fault == kind)
        return skips

    def error(self, found: Sequence[float], loss: float, step: int) -> BadStepError | None:
        """What is wrong with a step; None if nothing is.

        Args:
            found: what `found` held after it.
            loss: of it, over all ranks.
            step: its number, from 1.
        """
        fault, norm, usual_norm, usual_loss = found
        before = f"times the median of the {self._spike.window} steps before"
        if fault == _NOT_FINITE:
            return NotFiniteError(f"the gradient norm is {norm} at step {step}")
        if fault == _LONG_GRADIENT:
            return SpikeError(f"the gradient norm is {norm:.4g} at step {step}, where {self._limit:g} is too much")
        if fault == _NORM_SPIKE:
            return SpikeError(f"the gradient norm is {norm:.4g} at step {step}, {norm / usual_norm:.1f} {before}")
        if fault == _LOSS_SPIKE:
            return SpikeError(f"the loss is {loss:.4g} at step {step}, {loss / usual_loss:.1f} {before}")
        return None

    def tolerates(self, error: BadStepError | None) -> bool:
        """Whether training goes on after a step; asked once of each, in order, since it counts bad steps in a row.

        Args:
            error: what is wrong with it, or None.
        """
        self._in_a_row = 0 if error is None else self._in_a_row + 1
        if error is None:
            return True
        return policy(error, self._config) == "skip" and self._in_a_row <= self._config.max_nan

    def restart(self) -> None:
        """Forget what norms and losses were: other parameters are trained from here on."""
        for recent in (self._norms, self._losses):
            if recent is not None:
                recent.restart()

    def state(self) -> dict[str, Any]:
        """Norms and losses of recent steps, and bad steps in a row, for a checkpoint; JSON-able and exact."""
        recent = {"grad_norm": self._norms, "loss": self._losses}
        kept = {name: values.values() for name, values in recent.items() if values is not None}
        return {**kept, "in_a_row": self._in_a_row}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave. Where there is none, or of another window, all begins anew."""
        self.restart()
        self._in_a_row = state.get("in_a_row", 0)  # earlier versions did not keep it
        for name, recent in (("grad_norm", self._norms), ("loss", self._losses)):
            values = state.get(name, [])
            if recent is not None and len(values) == recent.window:
                recent.set_values(values)


class _Recent:
    """A number of each of the last steps, on the device.

    Args:
        window: how many steps.
        world: whose device.
    """

    def __init__(self, window: int, world: World) -> None:
        self.window = window
        # Infinite where there is nothing yet: the median is infinite too until half of them are known.
        self._values = torch.full((window,), math.inf, device=world.device)

    def median(self) -> Tensor:
        """() the median, which single spikes among the numbers hardly move."""
        return self._values.median()

    def add(self, value: Tensor, step: int) -> None:
        self._values[step % self.window] = value.nan_to_num(math.inf, math.inf)

    def restart(self) -> None:
        self._values.fill_(math.inf)

    def values(self) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in self._values.tolist()]

    def set_values(self, values: Sequence[float | None]) -> None:
        self._values.copy_(torch.tensor([math.inf if value is None else value for value in values]))
