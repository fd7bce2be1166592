"""Maps of features, of the tokens that have places in the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Tokens(NamedTuple):
    """What the encoder reads.

    Args:
        x: (B, R + N, dim), registers first.
        valid: (B, R + N) bool; None: all are tokens.
        grids: spatial modality -> (first column, (rows, columns)).
        prefix: (B,) tokens at the front that see one another, while later ones see what comes before them; None: all
            see all.
    """

    x: Tensor
    valid: Tensor | None
    grids: dict[str, tuple[int, tuple[int, int]]]
    prefix: Tensor | None = None


def merged_map(
    grids: Mapping[str, tuple[int, tuple[int, int]]], hidden: Tensor, present: Mapping[str, Tensor], *, first: bool
) -> Tensor:
    """The map of the tokens that have places; other grids are fitted to the first one's.

    Args:
        grids: as in `Tokens`.
        hidden: (B, R + N, dim) features of the tokens.
        present: modality -> (B,) bool, for samples that lack some of the modalities.
        first: each sample has the features of its first modality; otherwise the mean of all.

    Returns:
        (B, dim, h, w)
    """
    _, size = next(iter(grids.values()))
    total = hidden.new_zeros(len(hidden), hidden.shape[-1], *size)
    weight = hidden.new_zeros(len(hidden))
    for name, (start, grid) in grids.items():
        values = hidden[:, start : start + grid[0] * grid[1]].transpose(1, 2).unflatten(2, grid)
        if len(grids) == 1:
            return values
        if grid != size:
            values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
        there = present.get(name)
        share = torch.ones_like(weight) if there is None else there.to(weight.dtype)
        if first:
            share = share * (weight == 0)
        total, weight = total + values * share[:, None, None, None], weight + share
    return total / weight.clamp(min=1)[:, None, None, None]
