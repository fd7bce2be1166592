"""Several answers to one question as one answer, and where they disagree."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fourm.generate.merge import MERGED, merge
from fourm.modality import Modality


class Ensemble(NamedTuple):
    """One answer made of several.

    Args:
        value: natural units, without an axis of samples.
        uncertainty: (H, W) of each pixel (or of what is there instead): the variance of the answers, averaged over
            channels, or the entropy of their votes in nats. None for what has no mean, such as texts.
    """

    value: Any
    uncertainty: Tensor | None


def combine(values: Any, raw: Modality) -> Ensemble:
    """The mean of maps of numbers, the vote on maps of labels, all things that were found; of texts the first answer.

    Args:
        values: (N, C, H, W) numbers, (N, ...) labels or ids, or a list of N values.
        raw: what they show. The mean of normals is brought back to unit length; boxes, people and instances of all
            answers are merged (`fourm.generate.merge`).
    """
    if isinstance(values, list):
        found_things = raw.decode in MERGED and isinstance(values[0], list)
        return Ensemble(merge(values, raw.decode) if found_things else values[0], None)
    if not values.is_floating_point():
        return vote(values)
    mean = values.mean(0)
    spread = values.var(0, correction=1) if len(values) > 1 else torch.zeros_like(mean)
    if raw.decode == "normal":
        mean = mean / mean.norm(dim=0, keepdim=True).clamp(min=1e-6)
    return Ensemble(mean, spread.mean(0))


def vote(labels: Tensor) -> Ensemble:
    """The label that most answers chose, the smallest of equals, and the entropy of the shares of all labels.

    Args:
        labels: (N, ...) whole numbers.
    """
    candidates = labels.unique()
    shares = torch.stack([(labels == label).float().mean(0) for label in candidates])
    return Ensemble(candidates[shares.argmax(0)], entropy(shares, 0))


def entropy(probabilities: Tensor, dim: int = -1) -> Tensor:
    """Shannon entropy in nats along a dimension."""
    return torch.special.entr(probabilities).sum(dim)


def spread_tokens(entropies: Tensor, value: Any) -> Tensor:
    """(h, w) of tokens as (H, W) of the pixels of their value, each token's over its patch.

    Args:
        entropies: (h, w).
        value: (C, H, W) or (H, W); what has no such pixels leaves the map as it is.
    """
    shape = tuple(value.shape[-2:]) if isinstance(value, Tensor) and value.ndim > 1 else ()
    if not shape or shape[0] % entropies.shape[0] or shape[1] % entropies.shape[1]:
        return entropies
    rows, columns = (size // tokens for size, tokens in zip(shape, entropies.shape, strict=True))
    return entropies.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
