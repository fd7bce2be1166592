"""How well a run uses its machines: samples per second, model FLOPs utilisation, memory."""

from __future__ import annotations

import resource
import sys

import torch

from fourm.machine import peak_tflops
from fourm.train.distributed import World
from fourm.train.state import RunState

_GIB = 2**30
# What the system counts the largest resident set in.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Turns the tokens per second of a record of the log into the other figures, without waiting for the device.

    Args:
        world: the processes.
        batch_size: samples of a step over all ranks.
        flops_per_sample: operations that the model asks for, forward and backward; None: no utilisation.
        tflops: what one device can do, in 10^12 operations per second; None: what is known of it.
    """

    def __init__(
        self, world: World, batch_size: int, flops_per_sample: float | None = None, tflops: float | None = None
    ) -> None:
        self.device, self.batch_size, self.flops_per_sample = world.device, batch_size, flops_per_sample
        tflops = tflops or peak_tflops(world.device)
        self.peak = None if tflops is None else tflops * 1e12 * world.size
        self._step = self._tokens = 0

    def start(self, state: RunState) -> None:
        """What is counted from here on was done by this start of the run."""
        self._step, self._tokens = state.step, state.tokens

    def figures(self, state: RunState, tokens_per_second: float) -> dict[str, float]:
        """Figures since the last call.

        Args:
            state: of the run.
            tokens_per_second: of training alone since the last call, over all ranks.

        Returns:
            `samples_per_second` over all ranks, `memory_gib` of this process at its most (of the GPU, where there is
            one), and `mfu`: the share of the devices' peak that the model's own operations take (Chowdhery et al.
            2022, PaLM, sec. 4.1), where both are known.
        """
        steps, tokens = state.step - self._step, state.tokens - self._tokens
        self.start(state)
        samples = tokens_per_second * steps * self.batch_size / max(tokens, 1)
        figures = {"samples_per_second": samples, "memory_gib": self._memory() / _GIB}
        if self.peak is not None and self.flops_per_sample is not None:
            figures["mfu"] = samples * self.flops_per_sample / self.peak
        return figures

    def _memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
