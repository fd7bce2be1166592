"""Vector quantization with a codebook that follows running means (van den Oord et al. 2017, app. A.1).

A training step never asks the device for a value: start, decay and revival of codes are arithmetic on counters that
live beside the codebook, so the step runs on meta tensors, resumes exactly, and several ranks compute what one would on
their joint batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.nn.precision import full_precision
from fourm.nn.ranks import rank_and_world_size
from fourm.rng import torch_seed, uniform
from fourm.tokenizers.quantize import (
    ROWS_AT_ONCE,
    Quantized,
    perplexity,
    sum_over_ranks,
)
from fourm.tokenizers.quantizer_configs import EmaConfig


class EmaQuantizer(nn.Module):
    """Nearest code by angle or distance; codes are running means of the latents assigned to them.

    The first batch gives every code a random latent, or with `kmeans_steps` the mean of a cluster of its latents. From
    there the means weigh step t by 1 / (t + 1) until the configured decay takes over, which is sequential k-means
    (MacQueen 1967) over the first batches. Codes that are hardly used restart from random latents of the batch.
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
        with torch.device("cpu"):  # on the meta device `arange` would import the compiler, which takes seconds
            draws = uniform(torch.tensor(config.seed), torch.arange(size)[:, None], torch.arange(dim))
        placeholder = F.normalize(draws - 0.5, dim=-1).to(torch.get_default_device())
        self.register_buffer("codebook", placeholder)
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("cluster_sum", torch.zeros(size, dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._draw_seed = torch_seed(config.seed, "codebook")
        # Whether a step is the first of all only the device knows; here, whether it is the first of this process.
        self._may_start = config.kmeans_steps > 0

    @property
    def block(self) -> tuple[int, int]:
        return 1, 1

    @property
    def vocab_size(self) -> int:
        return self.config.codebook_size

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, latents: Tensor, seeds: Tensor | None = None) -> Quantized:
        """Quantize (B, h, w, d) latents; in training mode, also move the codebook. `seeds` are not needed."""
        with full_precision(latents.device):
            latents = latents.float()
            if self.config.cosine and self.config.normalize_latents:
                latents = F.normalize(latents, dim=-1)
            if self.training and self._may_start:
                self._may_start = False
                self._start(latents.detach().flatten(0, -2))
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
        at_once = max(1, ROWS_AT_ONCE // len(codes))
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
        latents = self._comparable(latents)
        hits, sums = self._clusters(latents, ids)
        drawn, total = self._draw_latents(latents)
        hits, sums, drawn = sum_over_ranks(hits, sums, drawn)
        decay = (self.step / (self.step + 1.0)).clamp(max=config.decay)
        size = self.cluster_size * decay + hits[:, 0] * (1 - decay)
        total_sum = self.cluster_sum * decay + sums * (1 - decay)

        fair_share = total / config.codebook_size
        dead = size < config.revive_below * fair_share
        if not config.kmeans_steps:
            # In the first step every code is dead, whatever the threshold: latents were assigned to placeholders.
            dead = dead | (self.step == 0)
        size = torch.where(dead, fair_share, size)
        total_sum = torch.where(dead[:, None], drawn * fair_share, total_sum)
        # A code nobody used for long, with revival off, keeps its place.
        self.codebook.copy_(self._comparable(_means(size[:, None], total_sum, self.codebook)))
        self.cluster_size.copy_(size)
        self.cluster_sum.copy_(total_sum)
        self.step += 1

    @torch.no_grad()
    def _start(self, latents: Tensor) -> None:
        """Lloyd's iterations on the first batch (N, d) of all ranks; a codebook that has begun stays as it is."""
        before = self.codebook.clone()
        latents = self._comparable(latents)
        (drawn,) = sum_over_ranks(self._draw_latents(latents)[0])
        self.codebook.copy_(drawn)
        for _ in range(self.config.kmeans_steps):
            hits, sums = sum_over_ranks(*self._clusters(latents, self.assign(latents)))
            self.codebook.copy_(self._comparable(_means(hits, sums, self.codebook)))
        self.codebook.copy_(torch.where(self.step == 0, self.codebook, before))

    def _comparable(self, vectors: Tensor) -> Tensor:
        """Vectors (..., d) with length 1 where only directions count."""
        return F.normalize(vectors, dim=-1) if self.config.cosine else vectors

    def _clusters(self, latents: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Number (V, 1) and sum (V, d) of the latents (N, d) that ids (N,) give to each code."""
        hits = torch.zeros_like(self.cluster_sum[:, :1]).index_add_(0, ids, torch.ones_like(latents[:, :1]))
        return hits, torch.zeros_like(self.cluster_sum).index_add_(0, ids, latents)

    def _draw_latents(self, latents: Tensor) -> tuple[Tensor, int]:
        """For every code one latent (V, d) of all ranks' batch, zero where another rank holds it; and their number."""
        rank, world_size = rank_and_world_size()
        count = len(latents)
        code = torch.arange(self.config.codebook_size, device=latents.device)
        seed = torch.full_like(code, self._draw_seed)
        # The draws are odd multiples of 2 ** -24. In whole numbers, since not every device has float64.
        index = ((uniform(seed, self.step, code) * 2**24).long() * (count * world_size) >> 24) - rank * count
        mine = (index >= 0) & (index < count)
        return latents[index.clamp(0, count - 1)] * mine[:, None], count * world_size


def _means(size: Tensor, total: Tensor, otherwise: Tensor) -> Tensor:
    """(V, d) total / size; the row of `otherwise` where hardly anything was counted."""
    return torch.where(size > 1e-5, total / size.clamp(min=1e-5), otherwise)
