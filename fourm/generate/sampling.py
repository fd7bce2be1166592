"""From logits to tokens: guidance, filters, and draws that belong to each sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fourm.errors import CheckpointError

COLDEST = 1e-6
"""Below this temperature the most probable token is taken."""
_HEAD = 512
"""So many of the most probable tokens are looked at first."""


class Drawn(NamedTuple):
    """Sampled tokens.

    Args:
        ids: (B, n) int64.
        confidence: (B, n) probability each had when it was drawn. At temperature 0, where that would be 1 everywhere,
            its probability at temperature 1. NaN where the logits were not finite.
    """

    ids: Tensor
    confidence: Tensor


def check_finite(finite: Tensor, target: str) -> None:
    """See that all logits were numbers: draws among others mean nothing.

    Args:
        finite: () bool, for instance of the confidence of what was drawn.
        target: named in the error.

    Raises:
        CheckpointError: if not.
    """
    if not bool(finite):
        raise CheckpointError(
            f"the model's logits for '{target}' are not finite: its weights are damaged, or numbers grow beyond what "
            "bfloat16 holds. Generate without bf16, with less guidance, or from an earlier checkpoint"
        )


def guide(unconditional: Tensor, conditional: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Classifier-free guidance with any number of conditions: l_u + sum_i w_i (l_i - l_u).

    One condition of weight s is the usual l_u + s (l_c - l_u) (Ho & Salimans 2022); negative weights keep away from a
    condition (Liu et al. 2022).

    Args:
        unconditional: (..., V) logits l_u, or the states (..., dim) that a linear head makes them of.
        conditional: the same of each condition, l_i.
        weights: w_i.
    """
    guided = unconditional
    for logits, weight in zip(conditional, weights, strict=True):
        guided = guided + weight * (logits - unconditional)
    return guided


def keep_top_k(logits: Tensor, top_k: int | float) -> Tensor:
    """(..., V) logits with all but the `top_k` largest at -inf; a share below 1 is one of V, and at least one token."""
    size = logits.shape[-1]
    count = min(size, top_k) if isinstance(top_k, int) else max(1, round(top_k * size))
    values, index = logits.topk(count, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, values)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2020).

    Returns:
        (..., V) logits, at -inf outside the smallest set of tokens whose probabilities add up to `top_p`; tokens as
        probable as the last of the set belong to it.
    """
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < _nucleus_edge(probabilities, top_p), -torch.inf)


def _nucleus_edge(probabilities: Tensor, top_p: float) -> Tensor:
    """(..., 1) the smallest probability inside the nucleus."""
    if probabilities.device.type != "cpu" or probabilities.shape[-1] <= _HEAD:
        return _edge(probabilities.sort(dim=-1, descending=True).values, top_p)
    # Sorting large vocabularies takes longer than the model: most nuclei lie within the first tokens.
    head = probabilities.topk(_HEAD, dim=-1).values
    edge = _edge(head, top_p)
    wide = head.sum(-1) < top_p
    edge[wide] = _edge(probabilities[wide].sort(dim=-1, descending=True).values, top_p)
    return edge


def _edge(ordered: Tensor, top_p: float) -> Tensor:
    inside = ordered.cumsum(-1) - ordered < top_p
    inside[..., 0] = True
    return ordered.masked_fill(~inside, 2.0).amin(-1, keepdim=True)


def categorical(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw by inverting the distribution function: one uniform number gives one token.

    Args:
        probabilities: (..., V), not necessarily normalised; tokens with probability 0 are never drawn.
        uniforms: (...) in (0, 1).

    Returns:
        (...) int64.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, (uniforms[..., None] * total).contiguous(), right=True)
    # Rounding may put the point on the very end, behind the last token that has any probability.
    last = torch.searchsorted(cumulative, total.contiguous())
    return torch.minimum(drawn, last)[..., 0].clamp(max=probabilities.shape[-1] - 1)


def draw(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float | NDArray[np.float64],
    *,
    top_k: int | float | None = None,
    top_p: float | None = None,
) -> Drawn:
    """Filter, heat and draw (in this order, as in 4M).

    Args:
        logits: (B, n, V) after guidance.
        uniforms: (B, n), one per token.
        temperature: one, or (B,), on the host.
        top_k: see `keep_top_k`.
        top_p: see `keep_top_p`.
    """
    logits = logits.float()
    heat = np.atleast_1d(np.asarray(temperature, np.float32))
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if (heat <= COLDEST).all():
        likely = logits.argmax(-1)
        return Drawn(likely, _at(logits.softmax(-1), likely))
    scale = torch.from_numpy(np.maximum(heat, COLDEST)).to(logits.device)
    probabilities = (logits / scale[:, None, None]).softmax(-1)
    ids = categorical(probabilities, uniforms)
    confidence = _at(probabilities, ids)
    if (heat <= COLDEST).any():
        cold = torch.from_numpy(heat <= COLDEST).to(logits.device)[:, None]
        likely = logits.argmax(-1)
        confidence = torch.where(cold, _at(logits.softmax(-1), likely), confidence)
        ids = torch.where(cold, likely, ids)
    return Drawn(ids, confidence)


def _at(probabilities: Tensor, ids: Tensor) -> Tensor:
    return probabilities.gather(-1, ids[..., None])[..., 0]


def expected_embedding(probabilities: Tensor, codebook: Tensor) -> Tensor:
    """The mean code under the model's belief, for `Tokenizer.decode_embeddings`.

    It gives smoother images than the likeliest codes, and closer ones where all tokens are predicted at once.

    Args:
        probabilities: (..., V), summing to 1.
        codebook: (V, d).

    Returns:
        (..., d).
    """
    return probabilities.to(codebook.dtype) @ codebook
