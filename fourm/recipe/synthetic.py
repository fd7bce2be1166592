"""Random samples of the form and size of a recipe's data, for what is built without any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.layouts import Continuous
from fourm.modality import Modality, ModalitySet
from fourm.recipe.schema import PretrainRecipe
from fourm.tokens import Document, Segment, SpecialIds

_CAPTION = 32
"""Tokens of text that stand with an image where documents share a row."""


def synthetic(
    recipe: PretrainRecipe, modalities: ModalitySet, rng: np.random.Generator, special: SpecialIds | None = None
) -> dict[str, Any] | Sequence[Document]:
    """A random sample of every modality; of documents with images, a row as long as theirs on average.

    A row is filled with text up to its `num_tokens`; see `images_per_row` for its images.
    """
    images = [m for m in modalities.values() if m.is_slots]
    texts = [m for m in modalities.values() if m.is_discrete and not m.is_grid]
    mixture = [d for d in recipe.data.train.datasets.values() if isinstance(d.packing, InterleavedConfig)]
    weight = sum(d.weight for d in mixture)
    if len(images) != 1 or len(texts) != 1 or not weight:
        return synthetic_sample(modalities, rng, special)
    (image,), (text,) = images, texts
    length = round(sum(d.weight * d.packing.num_tokens for d in mixture) / weight)
    count = sum(d.weight * images_per_row(d.packing, image.num_tokens) for d in mixture) / weight
    count = min(-(-count // 1), (length - 1) // image.num_tokens)  # rounded up
    words = rng.integers(0, text.vocab_size, length - int(count) * image.num_tokens)
    row = []
    for part in np.array_split(words, int(count) + 1):
        picture = rng.standard_normal((image.channels or 1, *image.image_size), dtype=np.float32)
        row += [Segment(text.name, part), Segment(image.name, picture)]
    return [row[:-1]]


def images_per_row(packing: InterleavedConfig, num_tokens: int) -> int:
    """Images of a row of documents, as far as the rules tell: as many as a document may have, or one.

    Args:
        packing: the rules.
        num_tokens: of an image.
    """
    if packing.reader == "text" or packing.max_images == 0:
        return 0
    count = packing.group if packing.reader in ("pairs", "aligned") else packing.max_images or 1
    most = (packing.num_tokens - 1) // num_tokens
    if packing.pack:
        count = max(count, packing.num_tokens // (num_tokens + _CAPTION))
    return min(count, most)


def synthetic_sample(
    modalities: ModalitySet, rng: np.random.Generator, special: SpecialIds | None = None
) -> dict[str, Any]:
    """A random sample of every modality, in the form the data hands over."""
    return {m.name: _synthetic(m, rng, special or SpecialIds()) for m in modalities.values()}


def _synthetic(m: Modality, rng: np.random.Generator, special: SpecialIds) -> Any:
    if m.is_grid and m.is_discrete:
        return rng.integers(0, m.vocab_size, m.num_tokens)
    if m.is_grid or m.is_slots:
        return rng.standard_normal((m.channels or 1, *m.image_size), dtype=np.float32)
    if isinstance(m.content, Continuous):
        return rng.standard_normal((m.num_tokens, m.content.dim), dtype=np.float32)
    tokens = rng.integers(special.sentinel(special.num_sentinels), m.vocab_size, max(m.num_tokens - 1, 1))
    return np.array_split(tokens, max(len(tokens) // 2, 1)) if m.unit == "chunk" else tokens
