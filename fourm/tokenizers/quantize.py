"""Vector quantization with a codebook that follows running means (van den Oord et al. 2017, app. A.1).

A training step never asks the device for a value: start, decay and revival of codes are arithmetic on counters that
live beside the codebook, so the step runs on meta tensors, resumes exactly, and several ranks compute what one would on
their joint batch.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.rng import torch_seed, uniform
from fourm.tokenizers.configs import EmaConfig

_ROWS_AT_ONCE = 1 << 26  # entries of the latent x code matrix held at a time: 256 MB


class Quantized(NamedTuple):
    """What a quantizer returns.

    Args:
        vectors: (B, h, w, d) codes; gradients pass straight to the latents.
        ids: (B, h, w) int64.
        commitment: (B,) squared distance of the latents to their codes, a mean over tokens and channels.
    """

    vectors: Tensor
    ids: Tensor
    commitment: Tensor


class EmaQuantizer(nn.Module):
    """Nearest code by angle or distance; codes are running means of the latents assigned to them.

    The first batch gives every code a random latent. From there the means weigh step t by 1 / (t + 1) until the
    configured decay takes over, which is sequential k-means (MacQueen 1967) over the first batches. Codes that are
    hardly used restart from random latents of the batch.
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    step: Tensor

    def __init__(self, config: EmaConfig) -> None:
        super().__init__()
        self.config = config
        size, dim = config.codebook_size, config.dim
        # A code without a batch behind it is only a placeholder: `cluster_size` 0 makes the first batch replace it.
        placeholder = F.normalize(
            uniform(torch.tensor(config.seed), torch.arange(size)[:, None], torch.arange(dim)) - 0.5, dim=-1
        )
        self.register_buffer("codebook", placeholder)
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("cluster_sum", torch.zeros(size, dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._draw_seed = torch_seed(config.seed, "codebook")

    @property
    def vocab_size(self) -> int:
        return self.config.codebook_size

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize (B, h, w, d) latents; in training mode, also move the codebook."""
        with full_precision(latents.device):
            latents = latents.float()
            if self.config.cosine and self.config.normalize_latents:
                latents = F.normalize(latents, dim=-1)
            ids = self.assign(latents)
            vectors = self.lookup(ids)
            commitment = (latents - vectors).square().flatten(1).mean(1)
            if self.training:
                self._follow(latents.detach().flatten(0, -2), ids.flatten())
            return Quantized(latents + (vectors - latents).detach(), ids, commitment)

    @torch.no_grad()
    def assign(self, latents: Tensor) -> Tensor:
        """Ids (...) of the codes nearest to latents (..., d)."""
        rows = latents.detach().float().reshape(-1, self.config.dim)
        codes = self.codebook.float()
        offset = codes.new_zeros(())
        if self.config.cosine:
            codes = F.normalize(codes, dim=-1)
        else:
            offset = -0.5 * codes.square().sum(-1)
        at_once = max(1, _ROWS_AT_ONCE // len(codes))
        ids = [(chunk @ codes.T + offset).argmax(-1) for chunk in rows.split(at_once)]
        return torch.cat(ids).reshape(latents.shape[:-1])

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes (..., d) of ids (...)."""
        return F.embedding(ids, self.codebook)

    @torch.no_grad()
    def usage(self) -> dict[str, Tensor]:
        """How the codebook is used by the recent batches, as tensors on its device.

        Returns:
            `perplexity`: exp of the entropy of the running usage; `used`: number of codes that need no revival.
        """
        share = self.cluster_size / self.cluster_size.sum().clamp(min=1e-9)
        threshold = self.config.revive_below / self.config.codebook_size
        return {"perplexity": perplexity(self.cluster_size), "used": (share > threshold).sum()}

    @torch.no_grad()
    def _follow(self, latents: Tensor, ids: Tensor) -> None:
        """Move counts, sums and codes by one batch of latents (N, d) assigned to ids (N,)."""
        config = self.config
        if config.cosine:
            latents = F.normalize(latents, dim=-1)
        hits = latents.new_zeros(config.codebook_size).index_add_(0, ids, torch.ones_like(latents[:, 0]))
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, ids, latents)
        drawn, total = self._draw_latents(latents)
        hits, sums, drawn = _sum_over_ranks(hits[:, None], sums, drawn)
        decay = (self.step / (self.step + 1.0)).clamp(max=config.decay)
        size = self.cluster_size * decay + hits[:, 0] * (1 - decay)
        total_sum = self.cluster_sum * decay + sums * (1 - decay)

        fair_share = total / config.codebook_size
        # In the first step every code is dead, whatever the threshold: their latents were assigned to placeholders.
        dead = (size < config.revive_below * fair_share) | (self.step == 0)
        size = torch.where(dead, fair_share, size)
        total_sum = torch.where(dead[:, None], drawn * fair_share, total_sum)
        # A code nobody used for long, with revival off, keeps its place.
        codes = torch.where(size[:, None] > 1e-5, total_sum / size[:, None].clamp(min=1e-5), self.codebook)
        self.codebook.copy_(F.normalize(codes, dim=-1) if config.cosine else codes)
        self.cluster_size.copy_(size)
        self.cluster_sum.copy_(total_sum)
        self.step += 1

    def _draw_latents(self, latents: Tensor) -> tuple[Tensor, int]:
        """For every code one latent (V, d) of all ranks' batch, zero where another rank holds it; and their number."""
        rank, world_size = _rank_and_world_size()
        count = len(latents)
        code = torch.arange(self.config.codebook_size, device=latents.device)
        seed = torch.full_like(code, self._draw_seed)
        # The draws are odd multiples of 2 ** -24. In whole numbers, since not every device has float64.
        index = ((uniform(seed, self.step, code) * 2**24).long() * (count * world_size) >> 24) - rank * count
        mine = (index >= 0) & (index < count)
        return latents[index.clamp(0, count - 1)] * mine[:, None], count * world_size


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of (V,) counts: how many equally used codes would say as much."""
    share = counts.float() / counts.sum().clamp(min=1e-9)
    return torch.exp(-torch.xlogy(share, share).sum())


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leave autocast for a while."""
    if device.type == "meta":  # which knows no autocast
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def _rank_and_world_size() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _sum_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sums of (V, d_i) tensors over all ranks, in one call."""
    if _rank_and_world_size()[1] == 1:
        return tensors
    joined = torch.cat(tensors, dim=1)
    dist.all_reduce(joined)
    return joined.split([tensor.shape[1] for tensor in tensors], dim=1)
