"""How decoded values of sequence modalities become token ids: the meeting place of data and text tokenizers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm.errors import ConfigError, DataError
from fourm.layouts import Discrete
from fourm.modality import Modality, ModalitySet
from fourm.recipe.schema import TEXT
from fourm.tokenizers.structured import KINDS
from fourm.tokenizers.text import TextTokenizer

Encoder = Callable[[Any, np.random.Generator], Any]


_CHUNK = re.compile(r"\s+(?=v1=)")
"""Between two facts such as `v1=3 v0=10`, which are masked as wholes (4M-21, sec. 3.1)."""


class TextEncoder:
    """Text, or values with structure written as text, to ids.

    Raises:
        ConfigError: if the tokenizer has too few numbers to write such values.
    """

    def __init__(self, tokenizer: TextTokenizer, modality: Modality) -> None:
        self.tokenizer, self.modality = tokenizer, modality
        self.kind = KINDS.get(modality.decode)
        self.draws = self.kind is not None and self.kind.draws
        if self.kind is not None:
            self.kind.check_bins(modality.name, tokenizer.num_coordinates)

    def __call__(self, value: Any, rng: np.random.Generator) -> Any:
        """(L,) int64 ids of a text; a list of them where the modality is masked in chunks."""
        if self.kind is not None:
            value = self.kind.to_text(value, self.tokenizer.num_coordinates, rng)
        chunked = self.modality.unit == "chunk"
        if isinstance(value, str):
            if chunked:
                return self.tokenizer.encode_chunks(_CHUNK.split(value.strip()))
            return self.tokenizer.encode(value)
        if self.kind is not None:
            return self.tokenizer.encode_chunks(value) if chunked else self.tokenizer.encode(" ".join(value))
        raise DataError(
            f"modality '{self.modality.name}': a sample holds {type(value).__name__}; expected text. Write it as text, "
            "with decode: text"
        )


def text_encoders(modalities: ModalitySet, tokenizer: TextTokenizer | None) -> dict[str, Encoder]:
    """The encoder of every text modality.

    Raises:
        ConfigError: if there are text modalities but no text tokenizer.
    """
    names = [m.name for m in modalities.values() if m.tokenizer == TEXT]
    if names and tokenizer is None:
        raise ConfigError(
            f"tokenizers.{TEXT} is missing: '{names[0]}' is text. Train one with `fourm train-wordpiece` and set "
            f"tokenizers.{TEXT} to its file"
        )
    return {name: TextEncoder(tokenizer, modalities[name]) for name in names if tokenizer is not None}


def adopt_vocabulary(modalities: ModalitySet, tokenizer: TextTokenizer | None) -> ModalitySet:
    """The modalities with the vocabulary size of the text tokenizer in use."""
    if tokenizer is None:
        return modalities
    content = Discrete(tokenizer.vocab_size)
    return ModalitySet(replace(m, content=content) if m.tokenizer == TEXT else m for m in modalities.values())


def load_text_tokenizer(tokenizers: Mapping[str, Path]) -> TextTokenizer | None:
    """The recipe's text tokenizer, if it names one."""
    return TextTokenizer.load(tokenizers[TEXT]) if TEXT in tokenizers else None
