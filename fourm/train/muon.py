"""Muon: momentum steps whose matrices are made orthogonal (Jordan et al. 2024; Liu et al. 2025)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fourm.machine import has_bf16
from fourm.train.shards import local, local_rows, num_ranks, spread_like, whole

_COEFFICIENTS = (
    3.4445,
    -4.775,
    2.0315,
)  # of the quintic iteration: steepest at zero, singular values end in 0.7 to 1.2
_NUM_ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW, except that parameter groups marked `orthogonal` take Muon's steps.

    With momentum m <- mu m + g, a weight moves by -lr * sqrt(max(1, rows / columns)) * orthogonal(g + mu m), after
    decoupled weight decay. Every direction of a matrix then learns at the same pace, also those whose gradients are
    small.

    Args:
        groups: parameter groups; one with `orthogonal` holds matrices and convolutions only. Fused projections of
            queries, keys and values count as several matrices.
        momentum: mu.
        options: as for AdamW.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, momentum: float = 0.95, **options: Any) -> None:
        self.momentum = momentum
        super().__init__([{"orthogonal": False, **group} for group in groups], **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            result = super().step(closure)  # type: ignore[arg-type]
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return result  # type: ignore[return-value]

    def _step_matrices(self, group: dict[str, Any]) -> None:
        skipped = getattr(self, "found_inf", None)
        weights = [weight for weight in group["params"] if weight.grad is not None]
        parts: list[list[Tensor]] = []  # per weight, the matrices in it and then their moves
        places: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for number, weight in enumerate(weights):
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            mean, gradient = local(state["momentum"]), local(weight.grad)
            if skipped is not None:
                gradient = torch.where(skipped > 0, 0.0, gradient)
            mean.mul_(self.momentum if skipped is None else torch.where(skipped > 0, 1.0, self.momentum)).add_(gradient)
            ahead = whole(spread_like(weight, gradient + self.momentum * mean))
            # A convolution is a matrix of one row per output channel.
            parts.append([part.flatten(1) for part in _split(ahead)])
            for i, matrix in enumerate(parts[-1]):
                places[matrix.shape[0], matrix.shape[1]].append((number, i))
        for found in places.values():
            moves = _shared_out(torch.stack([parts[number][i] for number, i in found]))
            for (number, i), move in zip(found, moves, strict=True):
                parts[number][i] = move
        lr, decay = group["lr"], group["weight_decay"]
        for weight, moves_of_parts in zip(weights, parts, strict=True):
            num_rows, num_columns = moves_of_parts[0].shape
            scale = lr * max(1.0, num_rows / num_columns) ** 0.5
            move = moves_of_parts[0] if len(moves_of_parts) == 1 else torch.cat(moves_of_parts)
            rows = local(weight)
            change = -lr * decay * rows - scale * move.view(weight.shape)[local_rows(weight)]
            rows.add_(change if skipped is None else torch.where(skipped > 0, 0.0, change))


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values end up between 0.7 and 1.2.

    Args:
        matrices: (n, rows, columns).

    Returns:
        the same shape and type, by five iterations x <- a x + (b s + c s s) x with s = x x^T.
    """
    dtype = torch.bfloat16 if has_bf16(matrices.device) else torch.float32
    x = matrices.to(dtype)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.transpose(1, 2)
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    is_long = x.shape[2] >= 2 * x.shape[1]
    x = _iterate_on_products(x) if is_long and dtype == torch.float32 else _iterate(x)
    return (x if wide else x.transpose(1, 2)).to(matrices.dtype)


def _iterate(x: Tensor) -> Tensor:
    for _ in range(_NUM_ITERATIONS):
        x = _polynomial(x @ x.transpose(1, 2)) @ x
    return x


def _iterate_on_products(x: Tensor) -> Tensor:
    """The same for long matrices at less than half the cost: all is a polynomial of the short s = x x^T, times x.

    It needs the precision of float32, since errors in s grow with the square of the singular values.
    """
    s = x @ x.transpose(1, 2)
    factor = None
    for number in range(_NUM_ITERATIONS):
        step = _polynomial(s)
        factor = step if factor is None else step @ factor
        if number < _NUM_ITERATIONS - 1:
            s = step @ s @ step
    assert factor is not None
    return factor @ x


def _polynomial(s: Tensor) -> Tensor:
    """a + b s + c s^2."""
    a, b, c = _COEFFICIENTS
    found = torch.baddbmm(s, s, s, beta=b, alpha=c)
    found.diagonal(dim1=1, dim2=2).add_(a)
    return found


def _shared_out(matrices: Tensor) -> Tensor:
    """`orthogonalise`, each rank a share of the matrices: they are the same on all, and so is the result."""
    size = num_ranks()
    if size == 1:
        return orthogonalise(matrices)
    count = -(-len(matrices) // size)
    padded = torch.cat([matrices, matrices.new_zeros(count * size - len(matrices), *matrices.shape[1:])])
    own = orthogonalise(padded[dist.get_rank() * count :][:count])
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its new name, from torch 2.14
    gather(padded, own.contiguous())
    return padded[: len(matrices)]


def _split(weight: Tensor) -> tuple[Tensor, ...]:
    """The square matrices that a fused projection stacks; a matrix that is no such stack, as it is."""
    rows, columns = weight.shape[:2]
    fused = weight.ndim == 2 and rows in (2 * columns, 3 * columns)
    return weight.split(columns) if fused else (weight,)
