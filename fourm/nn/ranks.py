"""What the networks of several ranks tell one another within a step."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world_size() -> tuple[int, int]:
    """Number of this process, and of all that train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_over_ranks(rows: Tensor) -> Tensor:
    """(world * n, ...) rows of all ranks in their order; every rank gives as many.

    The gradient of a row is the sum of those that it has on all ranks. A loss that is summed over the ranks then has
    the gradients of one process with all rows.
    """
    return rows if rank_and_world_size()[1] == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(rank_and_world_size()[1])]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rank, size = rank_and_world_size()
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(size)[rank]
