"""Tokenizers of the user's whose codes stand within texts: of masks, and of poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourm.catalog import MODALITIES
from fourm.data.facts import NUM_CODES
from fourm.errors import ConfigError
from fourm.tokenizers.base import load_tokenizer


def load_codes(folder: Path, key: str, device: str, *, like: str, num_tokens: int) -> Any:
    """A saved tokenizer, checked for what the text has room for.

    Args:
        folder: of the tokenizer.
        key: where the recipe names it, for errors.
        device: where to put it.
        like: modality of the catalog that it encodes.
        num_tokens: codes of one value.

    Raises:
        CheckpointError: if there is no tokenizer.
        ConfigError: if it encodes something else, or in other codes.
    """
    tokenizer = load_tokenizer(folder, device)
    expected, modality = MODALITIES[like], tokenizer.modality
    grid = tokenizer.grid
    if any(getattr(modality, fact) != getattr(expected, fact) for fact in ("channels", "decode", "normalization")):
        raise ConfigError(f"{key} is {folder}, a tokenizer of '{modality.name}'; expected one of '{like}'")
    if grid.height * grid.width != num_tokens or tokenizer.vocab_size > NUM_CODES:
        raise ConfigError(
            f"{key} is {folder}, whose values have {grid.height * grid.width} codes out of {tokenizer.vocab_size}; "
            f"expected {num_tokens} codes out of at most {NUM_CODES}"
        )
    return tokenizer
