"""Cross-entropy of linear heads whose logits are never held all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fourm.nn.precision import product_dtype

MAX_LOGITS = 2**24
"""Logits of one head that are held at once."""


class Asked(NamedTuple):
    """What is asked of one head, a range of rows of a table of heads.

    Args:
        start, stop: rows of the table: `stop - start` is the size of the vocabulary. Heads do not share rows.
        rows: (n,) which hidden states answer.
        targets: (n,) ids below the size of the vocabulary.
    """

    start: int
    stop: int
    rows: Tensor
    targets: Tensor


def linear_cross_entropy(hidden: Tensor, weight: Tensor, asked: Sequence[Asked]) -> list[Tensor]:
    """Cross-entropy of the logits `hidden[rows] @ weight[start:stop].T`, head by head.

    Where a head has more than `MAX_LOGITS`, they are made for some rows at a time, and once more in the backward pass.
    All heads have one gradient, the size of the table. Products are in autocast's type where it is on, sums in float32.

    Args:
        hidden: (N, dim) hidden states.
        weight: (V, dim) heads, one behind the other.
        asked: of each head.

    Returns:
        (n,) float32 of each head.
    """
    if not torch.is_grad_enabled() or torch.jit.is_tracing():  # a tracer cannot see into the function below
        return [
            _head_entropy(hidden, weight[a.start : a.stop].to(product_dtype(hidden)), a.rows, a.targets)[0]
            for a in asked
        ]
    spans = [(a.start, a.stop) for a in asked]
    tensors = [tensor for a in asked for tensor in (a.rows, a.targets)]
    return list(cast(tuple[Tensor, ...], _CrossEntropy.apply(hidden, weight, product_dtype(hidden), spans, *tensors)))


def _head_entropy(hidden: Tensor, head: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """(n,) cross-entropy of one head, and its (n, vocabulary) logits if they were made at once."""
    pieces, logits = _pieces(len(rows), len(head)), None
    made = [hidden.new_empty(0, dtype=torch.float32)]
    for piece in pieces:
        logits = F.linear(hidden[rows[piece]].to(head.dtype), head)
        made.append(F.cross_entropy(logits.float(), targets[piece], reduction="none"))
    return torch.cat(made), logits if len(pieces) == 1 else None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, dtype: torch.dtype, spans: list[tuple[int, int]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        heads = [weight[start:stop].to(dtype) for start, stop in spans]
        made = [_head_entropy(hidden, *one) for one in zip(heads, tensors[::2], tensors[1::2])]
        losses, kept = zip(*made) if made else ((), ())
        ctx.spans, ctx.dtype = spans, dtype
        ctx.save_for_backward(hidden, weight, *tensors, *heads, *kept)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, *saved = ctx.saved_tensors
        count = len(ctx.spans)
        tensors, heads, kept = saved[: 2 * count], saved[2 * count : 3 * count], saved[3 * count :]
        of_hidden = torch.zeros_like(hidden)
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        if of_weight is not None:
            for start, stop in _others(ctx.spans, len(weight)):
                of_weight[start:stop] = 0
        for n, (start, stop) in enumerate(ctx.spans):
            rows, targets, head = tensors[2 * n], tensors[2 * n + 1], heads[n]
            pieces = _pieces(len(rows), stop - start)
            own = None if of_weight is None else of_weight[start:stop]
            if own is not None and not pieces:
                own.zero_()
            total = own
            if own is not None and len(pieces) > 1 and own.dtype != torch.float32:
                total = torch.empty_like(own, dtype=torch.float32)
            for number, piece in enumerate(pieces):
                x = hidden[rows[piece]].to(ctx.dtype)
                logits = F.linear(x, head) if kept[n] is None else kept[n]
                # In bfloat16, 1 - p of an answer that is nearly sure would be rounded to nothing.
                change = logits.softmax(-1, dtype=torch.float32)
                change.scatter_add_(-1, targets[piece, None], change.new_full((len(x), 1), -1.0))
                change = change.to(ctx.dtype)
                factor = gradients[n][piece, None]
                of_hidden.index_add_(0, rows[piece], ((change @ head) * factor).to(hidden.dtype))
                if total is not None:
                    _add_product(total, change.T, (x * factor).to(ctx.dtype), begin=number == 0)
            if own is not None and total is not None and total is not own:
                own.copy_(total)
        return of_hidden, of_weight, None, None, *[None] * (2 * count)


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, begin: bool) -> None:
    """Add a product to a sum in place; `begin`: whatever stands there is no part of it yet."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=0 if begin else 1)
    elif begin:
        total.copy_(a @ b)
    else:
        total.add_(a @ b)


def _pieces(num_rows: int, vocabulary: int) -> list[slice]:
    """Rows whose logits are held together."""
    size = max(MAX_LOGITS // vocabulary, 1)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _others(spans: list[tuple[int, int]], total: int) -> Iterator[tuple[int, int]]:
    """What the spans leave of a table."""
    done = 0
    for start, stop in sorted(spans):
        yield done, start
        done = stop
    yield done, total
