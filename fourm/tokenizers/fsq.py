"""Finite scalar quantization (Mentzer et al. 2023): channels are rounded to a few levels, and no code is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.nn.precision import full_precision
from fourm.tokenizers.quantize import Quantized, RecentUsage
from fourm.tokenizers.quantizer_configs import FSQConfig

_LARGEST_TABLE = 1 << 16
_REACH = 1e-3  # how far the bound lies beyond the outermost levels, so that they are reached by finite latents


class FSQ(nn.Module):
    """Rounds channel i to one of L_i levels between -1 and 1; a code is the combination of all levels.

    Channel i is bounded by b(z) = a tanh(z + s) - o with a = (L_i - 1) (1 + 0.001) / 2, where o is 1/2 for an even L_i,
    else 0, and s = atanh(o / a), so that b(0) = 0 (app. A.1 of the paper). round(b(z)) is one of the whole numbers from
    -floor(L_i / 2) on; gradients pass the rounding unchanged. The id is a number whose digits are the levels, the first
    channel's digit being the lowest.
    """

    levels: Tensor

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        self.config = config
        # Saved with the weights: a constant made on the fly would have to be copied to the device in every step.
        self.register_buffer("levels", torch.tensor(config.levels, dtype=torch.int64))
        self._usage = RecentUsage()

    @property
    def block(self) -> tuple[int, int]:
        return 1, 1

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def vocab_size(self) -> int:
        return self.config.codebook_size

    @property
    def codebook(self) -> Tensor | None:
        """(V, d) all codes in the order of their ids; None for more than 65,536."""
        if self.vocab_size > _LARGEST_TABLE:
            return None
        return self.lookup(torch.arange(self.vocab_size, device=self.levels.device))

    def forward(self, latents: Tensor, seeds: Tensor | None = None) -> Quantized:
        """Quantize (B, h, w, d) latents; there is no distance to pull on, so the commitment is zero."""
        with full_precision(latents.device):
            bounded = self._bound(latents.float())
            digits = bounded.detach().round()
            ids = self._ids(digits)
            if self.training:
                self._usage.add(ids.flatten())
            vectors = (bounded + (digits - bounded).detach()) / (self.levels // 2)
            return Quantized(vectors, ids, bounded.new_zeros(len(bounded)))

    @torch.no_grad()
    def assign(self, latents: Tensor) -> Tensor:
        """Ids (...) of latents (..., d)."""
        return self._ids(self._bound(latents.float()).round())

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes (..., d) of ids (...)."""
        digits = ids[..., None] // self._place_values() % self.levels
        half = self.levels // 2
        return (digits - half) / half

    @torch.no_grad()
    def usage(self) -> dict[str, Tensor]:
        """`perplexity` and `used` codes of the last 65,536 places; see `Quantizer.usage`."""
        return self._usage.values()

    def _bound(self, latents: Tensor) -> Tensor:
        amplitude = (self.levels - 1) * ((1 + _REACH) / 2)
        offset = (self.levels % 2 == 0) * 0.5
        return amplitude * torch.tanh(latents + torch.atanh(offset / amplitude)) - offset

    def _ids(self, digits: Tensor) -> Tensor:
        return ((digits.long() + self.levels // 2) * self._place_values()).sum(-1)

    def _place_values(self) -> Tensor:
        """1, L_1, L_1 L_2, ..."""
        return F.pad(self.levels[:-1], (1, 0), value=1).cumprod(0)
