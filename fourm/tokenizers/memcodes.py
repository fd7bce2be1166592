"""Memory codes: several codebooks per latent, chosen by attention (4M-21, Bachmann et al. 2024, for global features).

Keys and values are linear functions of the codes, so that all codes of a head move whenever one of them is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.nn.precision import full_precision
from fourm.rng import key_hash, uniform
from fourm.tokenizers.quantize import ROWS_AT_ONCE, Quantized, RecentUsage
from fourm.tokenizers.quantizer_configs import MemcodesConfig

_CHOICE = key_hash("memcodes", "choice") & 0x7FFF_FFFF_FFFF_FFFF


class MemoryCodes(nn.Module):
    """Each head reads its part q of a latent and attends to the V codes of its own.

    With keys k_v = c_v K and values u_v = c_v U of the codes c_v, code v gets the logit q . k_v / sqrt(d / heads). In
    training one code is drawn by the straight-through Gumbel-softmax (Jang et al. 2017), otherwise the likeliest is
    taken; the heads' values, side by side, are what decoders read. The draws belong to the sample's seed.
    """

    def __init__(self, config: MemcodesConfig) -> None:
        super().__init__()
        self.config = config
        heads, dim = config.num_heads, config.dim // config.num_heads
        self.codes = nn.Parameter(torch.randn(heads, config.codebook_size, dim))
        self.to_k = nn.Parameter(torch.randn(heads, dim, dim) * dim**-0.5)
        self.to_v = nn.Parameter(torch.randn(heads, dim, dim) * dim**-0.5)
        self._usage = RecentUsage()

    @property
    def block(self) -> tuple[int, int]:
        """The heads as the block of ids that is nearest to a square."""
        heads = self.config.num_heads
        rows = max(n for n in range(1, math.isqrt(heads) + 1) if heads % n == 0)
        return rows, heads // rows

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def vocab_size(self) -> int:
        return self.config.codebook_size

    @property
    def codebook(self) -> Tensor | None:
        """(V, d) the values of a single head; None for several, with which the meaning of an id depends on its head."""
        return self._values()[0].detach() if self.config.num_heads == 1 else None

    def forward(self, latents: Tensor, seeds: Tensor | None = None) -> Quantized:
        """Quantize (B, h, w, d) latents; keys and values learn by gradient, so the commitment is zero."""
        with full_precision(latents.device):
            commitment = latents.new_zeros(len(latents), dtype=torch.float32)
            if not self.training:
                ids = self.assign(latents)
                return Quantized(self.lookup(ids), ids, commitment)
            logits = self._logits(latents)
            logits = (logits + self._gumbel(logits, seeds)) / self.config.temperature
            chosen = logits.argmax(-1)
            self._usage.add(chosen.flatten(0, -2).T)
            # One code goes forward. Backward, its value learns as if chosen for sure, the logits as if all were mixed.
            values = self._values()
            mixed = torch.einsum("...nv,nvc->...nc", logits.softmax(-1), values.detach())
            vectors = self._pick(values, chosen) + (mixed - mixed.detach())
            return Quantized(vectors.flatten(-2), self._to_grid(chosen), commitment)

    @torch.no_grad()
    def assign(self, latents: Tensor) -> Tensor:
        """Ids (B, h * rows, w * columns) of the likeliest codes of (B, h, w, d) latents."""
        with full_precision(latents.device):
            at_once = max(1, ROWS_AT_ONCE // (self.config.num_heads * self.config.codebook_size))
            rows = latents.flatten(0, -2)
            chosen = torch.cat([self._logits(part).argmax(-1) for part in rows.split(at_once)])
            return self._to_grid(chosen.view(*latents.shape[:-1], -1))

    def lookup(self, ids: Tensor) -> Tensor:
        """Vectors (B, h, w, d) of ids (B, h * rows, w * columns).

        Raises:
            ConfigError: if the ids do not divide into blocks.
        """
        with full_precision(ids.device):
            return self._pick(self._values(), self._from_grid(ids)).flatten(-2)

    @torch.no_grad()
    def usage(self) -> dict[str, Tensor]:
        """`perplexity` and `used` codes of the last 65,536 places, means over heads; see `Quantizer.usage`."""
        return self._usage.values()

    def _logits(self, latents: Tensor) -> Tensor:
        """(..., d) -> (..., heads, V)."""
        queries = latents.float().unflatten(-1, (self.config.num_heads, -1))
        keys = torch.einsum("nvd,ndc->nvc", self.codes.float(), self.to_k.float())
        return torch.einsum("...nc,nvc->...nv", queries, keys) * queries.shape[-1] ** -0.5

    def _values(self) -> Tensor:
        """(heads, V, d / heads)."""
        return torch.einsum("nvd,ndc->nvc", self.codes.float(), self.to_v.float())

    def _pick(self, values: Tensor, ids: Tensor) -> Tensor:
        """Rows (..., heads, c) of values (heads, V, c) for ids (..., heads)."""
        return values[torch.arange(len(values), device=ids.device), ids]

    def _gumbel(self, logits: Tensor, seeds: Tensor | None) -> Tensor:
        """Standard Gumbel noise (B, h, w, heads, V), each sample's own."""
        if seeds is None:
            seeds = torch.arange(len(logits), device=logits.device)
        places = torch.arange(logits[0].numel(), device=logits.device)
        return -torch.log(-torch.log(uniform(seeds[:, None], _CHOICE, places))).view_as(logits)

    def _to_grid(self, ids: Tensor) -> Tensor:
        """(B, h, w, heads) -> (B, h * rows, w * columns)."""
        batch, height, width, _ = ids.shape
        rows, columns = self.block
        blocks = ids.view(batch, height, width, rows, columns).transpose(2, 3)
        return blocks.reshape(batch, height * rows, width * columns)

    def _from_grid(self, ids: Tensor) -> Tensor:
        """(B, h * rows, w * columns) -> (B, h, w, heads)."""
        (rows, columns), (batch, height, width) = self.block, ids.shape
        if height % rows or width % columns:
            raise ConfigError(
                f"a grid of {height} x {width} ids does not divide into blocks of {rows} x {columns}, the codes of one "
                "place: give the token modality the layout of its tokenizer (`grid` in the tokens' source.json)"
            )
        blocks = ids.view(batch, height // rows, rows, width // columns, columns).transpose(2, 3)
        return blocks.flatten(-2)
