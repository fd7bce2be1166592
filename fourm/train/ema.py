"""A running mean of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fourm.train.shards import local


class WeightAverage:
    """Exponential moving average of all parameters.

    mean = decay * mean + (1 - decay) * weights. The decay starts lower, min(decay, (1 + step) / (10 + step)):
    the mean forgets the random start.

    Buffers stay as they are: a codebook is a running mean already, and its mean would hold codes halfway between their
    old and new places. On the rooms' depth, averaged weights rebuild up to 5 % better with the present codebook.

    Args:
        model: whose weights are averaged; the mean starts from them.
        decay: of the mean, per step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        parameters = dict(model.named_parameters())
        self.mean = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        # Where weights are spread over ranks, each rank averages its own part.
        self._mean = [local(tensor) for tensor in self.mean.values()]
        self._parameters = list(parameters.values())

    @property
    def _live(self) -> list[Tensor]:
        """The present weights; asked each time, as FSDP2 moves parts of unequal size when it first runs."""
        return [local(parameter.detach()) for parameter in self._parameters]

    def restart(self) -> None:
        """Forget the past: the mean becomes the present weights."""
        torch._foreach_copy_(self._mean, self._live)

    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, self._live, weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the mean for the length of a `with` block."""
        live = self._live
        kept = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, self._mean)
        try:
            yield
        finally:
            torch._foreach_copy_(live, kept)
