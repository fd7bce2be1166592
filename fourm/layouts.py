"""What tokens a modality has: where they stand, and what each of them holds."""

from __future__ import annotations

from dataclasses import dataclass

from fourm.errors import ConfigError


@dataclass(frozen=True)
class Grid:
    """Tokens on a fixed grid, numbered row by row.

    Args:
        height: tokens from top to bottom.
        width: tokens from left to right.
        patch_size: pixels per token side.
    """

    height: int
    width: int
    patch_size: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.patch_size) < 1:
            raise ConfigError(
                f"a grid has height {self.height}, width {self.width}, patch_size {self.patch_size}; "
                "each must be at least 1"
            )

    @property
    def num_tokens(self) -> int:
        return self.height * self.width

    @property
    def num_positions(self) -> int:
        return self.num_tokens

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height * self.patch_size, self.width * self.patch_size

    def image_size_at(self, resolution: int) -> tuple[int, int]:
        """(height, width) in pixels of an image of this shape whose shorter side has `resolution` pixels."""
        shorter = min(self.image_size)
        height, width = (side * resolution // shorter for side in self.image_size)
        return height, width


@dataclass(frozen=True)
class Sequence:
    """Tokens in a row, of any length up to `max_tokens`.

    Args:
        max_tokens: longest sequence, its end token included.
        num_positions: length of the position table; a masked sequence is longer than the sequence itself by its
            sentinels.
        num_target_positions: positions the decoder may use; later ones fall back to position 0, as in the published
            models (4M's decoder embeddings; None: all of the table).
    """

    max_tokens: int
    num_positions: int = 512
    num_target_positions: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= self.num_positions:
            raise ConfigError(
                f"a sequence has max_tokens {self.max_tokens} and num_positions {self.num_positions}; "
                "expected 1 <= max_tokens <= num_positions"
            )

    @property
    def num_tokens(self) -> int:
        return self.max_tokens


@dataclass(frozen=True)
class Slots:
    """Vectors that a network makes of a whole image, none of which has a place in it of its own (Emu's 32).

    Args:
        num_tokens: vectors of an image.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """

    num_tokens: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.num_tokens, self.height, self.width) < 1:
            raise ConfigError(
                f"slots have num_tokens {self.num_tokens}, height {self.height}, width {self.width}; each must be at "
                "least 1"
            )

    @property
    def num_positions(self) -> int:
        return self.num_tokens

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class Discrete:
    """Token ids in [0, vocab_size)."""

    vocab_size: int

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ConfigError(f"vocab_size is {self.vocab_size}; expected at least 1")


@dataclass(frozen=True)
class Continuous:
    """Vectors of `dim` numbers per token."""

    dim: int

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"the dim of a continuous content is {self.dim}; expected at least 1")
