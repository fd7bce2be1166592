"""Quantizers, free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fourm.errors import ConfigError
from fourm.ranges import check_range

TWO_BYTES = 1 << 15
"""Vocabularies up to this size are stored as 16-bit ids, larger ones as 32-bit ids."""
MOST_CODES = 1 << 31
"""The largest vocabulary that token files can hold."""


@dataclass(frozen=True)
class EmaConfig:
    """Vector quantizer whose codebook follows running means of its latents (van den Oord et al. 2017, app. A.1).

    Args:
        codebook_size: number of codes.
        dim: length of a code.
        cosine: compare directions instead of distances (Yu et al. 2022).
        normalize_latents: latents get length 1 before they are compared and pulled to their code; only with `cosine`.
        decay: of the running means.
        revive_below: a code used less than this share of the mean usage is replaced by a latent drawn from the batch;
            0 never.
        kmeans_steps: Lloyd's iterations on the first batch, whose means are the first codes; 0 begins with random
            latents of the batch.
        seed: of those draws.
    """

    target: ClassVar[str] = "fourm.tokenizers.ema:EmaQuantizer"
    training_keys: ClassVar[tuple[str, ...]] = ("decay", "revive_below", "kmeans_steps", "seed")

    codebook_size: int = 512
    dim: int = 16
    cosine: bool = True
    normalize_latents: bool = True
    decay: float = 0.99
    revive_below: float = 1 / 32
    kmeans_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.dim)
        check_range(self, "decay", "revive_below", least=0, below=1)
        check_range(self, "kmeans_steps", least=0)


@dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantization (Mentzer et al. 2023): no codebook to learn, none to collapse.

    Args:
        levels: numbers of levels that each channel of a latent is rounded to; the vocabulary is their product. The
            paper's choices: 8, 6, 5 for 240 codes; 8, 5, 5, 5 for 1,000; 7, 5, 5, 5, 5 for 4,375; 8, 8, 8, 6, 5 for
            15,360.
    """

    target: ClassVar[str] = "fourm.tokenizers.fsq:FSQ"

    levels: tuple[int, ...] = (8, 8, 8)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ConfigError(
                f"levels is {list(self.levels)}; expected a number of levels for each channel, at least 3 each (at 2 "
                "the border between both would lie far from 0)"
            )
        check_codebook(self.codebook_size, self.dim)

    @property
    def dim(self) -> int:
        """Length of a latent."""
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)


@dataclass(frozen=True)
class MemcodesConfig:
    """Memory codes: each of several heads gives a place one code (4M-21's global features and poses).

    A place gets `num_heads` tokens, in the block of tokens that is nearest to a square: with 16 heads, one vector
    becomes a grid of 4 x 4.

    Args:
        num_heads: codes per place.
        codebook_size: codes of each head.
        dim: length of a latent, shared out among the heads.
        temperature: of the draws in training.
    """

    target: ClassVar[str] = "fourm.tokenizers.memcodes:MemoryCodes"
    training_keys: ClassVar[tuple[str, ...]] = ("temperature",)

    num_heads: int = 8
    codebook_size: int = 1024
    dim: int = 256
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.dim)
        check_range(self, "num_heads", least=1)
        check_range(self, "temperature", above=0)
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads}")


def check_codebook(size: int, dim: int) -> None:
    """Whether a codebook can be one.

    Raises:
        ConfigError: if it has fewer than 2 codes, or more than token files can hold.
    """
    if size < 2 or dim < 1:
        raise ConfigError(f"codebook_size {size} must be 2 or more and dim {dim} 1 or more")
    if size > MOST_CODES:
        raise ConfigError(
            f"{size:,} codes are more than token files can hold: their ids have 32 bits, for at most {MOST_CODES:,} "
            "codes. Use a smaller codebook, for instance of 16,384 codes"
        )
