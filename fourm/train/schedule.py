"""Learning rate in closed form: a pure function of how much of the run is done."""

from __future__ import annotations

import dataclasses
import math

from fourm.train.configs import TrainConfig

DEFAULT_TIMESCALE_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a shape and a linear cool-down, all in one unit (steps or tokens).

    With `x` what is done after the warm-up of length W, total T, cool-down C:
    cosine: min + (peak - min) * (1 + cos(pi * x / (T - W - C))) / 2;
    inverse_sqrt: peak * sqrt(t / (t + x));  constant: peak.

    Args:
        kind: cosine, inverse_sqrt or constant.
        peak: learning rate after the warm-up.
        min_lr: where cosine and cool-down end.
        total, warmup, cooldown, timescale: lengths.
    """

    kind: str
    peak: float
    min_lr: float
    total: float
    warmup: float = 0.0
    cooldown: float = 0.0
    timescale: float = DEFAULT_TIMESCALE_STEPS

    def lr(self, done: float, size: float = 1.0) -> float:
        """Learning rate of one step.

        Args:
            done: what is done before this step.
            size: what this step adds (1, or its tokens). The warm-up counts it, so that the first step already learns.
        """
        if done < self.warmup:
            return self.peak * min(1.0, (done + size) / self.warmup)
        cooldown_start = self.total - self.cooldown
        if self.cooldown and done >= cooldown_start:
            top = self._shape(cooldown_start - self.warmup)
            left = max(0.0, (self.total - done) / self.cooldown)
            return self.min_lr + (top - self.min_lr) * left
        return self._shape(done - self.warmup)

    def _shape(self, x: float) -> float:
        if self.kind == "constant":
            return self.peak
        if self.kind == "inverse_sqrt":
            return max(self.min_lr, self.peak * math.sqrt(self.timescale / (self.timescale + x)))
        length = self.total - self.warmup - self.cooldown
        part = min(1.0, x / length) if length > 0 else 1.0
        return self.min_lr + (self.peak - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * part))


def schedule_of(config: TrainConfig) -> Schedule:
    """The schedule a recipe asks for, in the unit of the run's length.

    Raises:
        ConfigError: if a length is given in the other unit.
    """
    warmup = config.amount("warmup") or 0.0
    return Schedule(
        kind=config.schedule.kind,
        peak=config.peak_lr,
        min_lr=config.schedule.min_lr,
        total=config.length,
        warmup=warmup,
        cooldown=config.amount("cooldown") or 0.0,
        timescale=config.amount("timescale") or warmup or DEFAULT_TIMESCALE_STEPS,
    )
