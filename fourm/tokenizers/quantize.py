"""What every quantizer offers, and what they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from fourm.nn.ranks import gather_over_ranks, rank_and_world_size

ROWS_AT_ONCE = 1 << 26  # entries of the latent x code matrix held at a time: 256 MB
_WINDOW = 1 << 16  # places that usage is counted over, as for the published tokenizers


class Quantized(NamedTuple):
    """What a quantizer returns.

    Args:
        vectors: (B, h, w, d) codes; gradients pass straight to the latents.
        ids: (B, h * rows, w * columns) int64; see `Quantizer.block`.
        commitment: (B,) squared distance of the latents to their codes, a mean over tokens and channels; zero where
            nothing has to be pulled together.
    """

    vectors: Tensor
    ids: Tensor
    commitment: Tensor


@runtime_checkable
class Quantizer(Protocol):
    """Turns latents into ids, and ids into the vectors that decoders read.

    A place of the latent map has a block of ids, usually of one. So (B, h, w, d) latents have (B, h * rows, w *
    columns) ids; those of one place are numbered row by row.

    Attributes:
        block: rows and columns of ids that one place has.
        dim: length of a latent, and of the vector of a place.
        vocab_size: number of ids.
        codebook: (V, d) vectors behind the ids; None if there is no such table, or it would be too large.
    """

    @property
    def block(self) -> tuple[int, int]: ...

    @property
    def dim(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def codebook(self) -> Tensor | None: ...

    def forward(self, latents: Tensor, seeds: Tensor | None = None) -> Quantized:
        """Quantize latents in float32; in training mode, also follow them.

        Args:
            latents: (B, h, w, d).
            seeds: (B,) int64 that own all draws of their samples; None: 0, 1, 2, ...
        """
        ...

    def assign(self, latents: Tensor) -> Tensor:
        """Ids (B, h * rows, w * columns) of (B, h, w, d) latents, without gradient or draws."""
        ...

    def lookup(self, ids: Tensor) -> Tensor:
        """Vectors (B, h, w, d) of ids (B, h * rows, w * columns)."""
        ...

    def usage(self) -> dict[str, Tensor]:
        """How many codes the recent batches of training used, as tensors on their device; empty before the first.

        Returns:
            `perplexity`: exp of the entropy of the usage; `used`: number of codes in use.
        """
        ...


class RecentUsage:
    """Which codes the latest places of training had, over all ranks.

    It lives beside the weights, not among them: a resumed run counts anew.
    """

    def __init__(self) -> None:
        self._recent: Tensor | None = None

    def add(self, ids: Tensor) -> None:
        """Ids of one batch, (N,), or (n, N) of n vocabularies."""
        ids = gather_over_ranks(torch.atleast_2d(ids).T).T
        recent = ids if self._recent is None else torch.cat([self._recent.to(ids.device), ids], dim=1)
        self._recent = recent[:, -_WINDOW:]

    def values(self) -> dict[str, Tensor]:
        """`perplexity` and `used` of the last 65,536 places; means over vocabularies."""
        if self._recent is None:
            return {}
        ordered = self._recent.sort(dim=1).values
        is_first = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0), value=True)
        counts = torch.zeros_like(ordered, dtype=torch.float32)
        counts.scatter_add_(1, is_first.cumsum(1) - 1, torch.ones_like(counts))
        means = torch.stack([perplexity(row) for row in counts]).mean()
        return {"perplexity": means, "used": is_first.sum(1).float().mean()}


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of (V,) counts: how many equally used codes would say as much."""
    share = counts.float() / counts.sum().clamp(min=1e-9)
    return torch.exp(-torch.xlogy(share, share).sum())


def sum_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sums of (V, d_i) tensors over all ranks, in one call."""
    if rank_and_world_size()[1] == 1:
        return tensors
    joined = torch.cat(tensors, dim=1)
    dist.all_reduce(joined)
    return joined.split([tensor.shape[1] for tensor in tensors], dim=1)
