"""Predict every token of a row from those before it (LVM, Bai et al. 2023; AIM, El-Nouby et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.modality import Modality, ModalitySet
from fourm.objectives.asking import Asking, check_vocabulary, grid_ids, vectors_of
from fourm.objectives.configs import AutoregressiveConfig
from fourm.objectives.rows import RowBuilder, Tokens
from fourm.objectives.spans import leading_chunks
from fourm.objectives.table import select_patches
from fourm.tokens import PADDING, Document, Example, Segment, SpecialIds, TokenRow, collate


class Autoregressive(Asking):
    """The objective of language models, over any modalities: the asked token's content selects the head.

    A sample maps modalities to values as for `Masked`, which are put in a row in the order of the config; texts get the
    special ids of start and end. Or it is a row of documents, which do not see one another; they hold what the data
    wrote, special ids included. The first token of a document is not asked.

    Args:
        config: order, prefix and weights.
        modalities: those of the model.
        special: special ids of the text vocabulary.

    Raises:
        ConfigError: if something is only to be predicted, which a row cannot go on from; if nothing is predicted; or if
            vectors of one number are to be standardised.
    """

    def __init__(
        self, config: AutoregressiveConfig, modalities: ModalitySet, special: SpecialIds | None = None
    ) -> None:
        asked = [m.name for m in modalities.values() if m.is_predicted and m.name in (config.order or modalities)]
        super().__init__(modalities, asked, config.reduction, config.modality_weights, special)
        self._by_modality("order", dict.fromkeys(config.order))
        self.config, self.order = config, tuple(config.order) or self.names
        blind = [m.name for m in modalities.values() if not m.is_input]
        if blind or not asked:
            raise ConfigError(
                f"objective.kind autoregressive reads every token and predicts at least one modality, but "
                f"{', '.join(blind) or 'no modality'} {'is an output' if blind else 'is'} "
                f"{'alone' if blind else 'predicted'}: set its direction to both"
            )
        single = [name for name in asked if getattr(modalities[name].content, "dim", 2) < 2]
        if config.standardize and single:
            raise ConfigError(
                f"objective.standardize: a vector of '{single[0]}' has one number, and so no deviation: set it to false"
            )
        tokens = sum(modalities[name].num_tokens + _is_text(modalities[name]) for name in self.order)
        self.budget = config.max_tokens or max(tokens - 1, 1)

    def prepare(self, sample: Mapping[str, Any] | Sequence[Document], rng: np.random.Generator) -> TokenRow:
        """The table of one row.

        Raises:
            DataError: if the sample does not fit the modalities, or a row of documents its budget.
        """
        row, prefix = self._row(), rng if self.config.prefix == "uniform" else None
        fed = rng if self.config.prefix == "fed" else None
        if isinstance(sample, Mapping):
            segments = self._segments(sample, rng)
            row.add((self._tokens(segment, fed) for segment in segments), prefix, self.budget + 1)
        else:
            for document in sample:
                row.add((self._tokens(segment, fed) for segment in document), prefix)
            if row.length > self.budget:
                raise DataError(
                    f"a row of documents has {row.length} tokens to read, more than the {self.budget} of the "
                    "objective: pack shorter rows, or raise objective.max_tokens"
                )
        return row.build()

    def _row(self) -> RowBuilder:
        return RowBuilder(self.config.skip_ids, regress_end=self.config.regress_end)

    def collate(self, items: Sequence[TokenRow]) -> Example:
        """A batch of prepared samples."""
        return Example(encoder=None, decoder=collate(items, self.modalities, targets=self.parts))

    def _error(self, name: str, answers: Tensor, targets: Tensor) -> Tensor:
        if self.config.standardize and not self.modalities[name].is_discrete:
            centred = targets - targets.mean(-1, keepdim=True)
            variance = centred.square().sum(-1, keepdim=True) / (targets.shape[-1] - 1)
            targets = centred / (variance + 1e-6).sqrt()
        return super()._error(name, answers, targets)

    def _segments(self, sample: Mapping[str, Any], rng: np.random.Generator) -> list[Segment]:
        """An aligned sample as one document."""
        names = [name for name in self.order if name in sample]
        if self.config.shuffle:
            names = [names[i] for i in rng.permutation(len(names))]
        segments: list[Segment] = []
        for name in names:
            modality, value = self.modalities[name], sample[name]
            if _is_text(modality):
                # The start says that a text comes now: it is given, not guessed.
                segments.append(Segment(name, np.array([self.special.start]), asked=False))
                value = self._ended(modality, value)
            segments.append(Segment(name, value))
        return segments

    def _ended(self, modality: Modality, value: Any) -> np.ndarray:
        """The ids of a text with its end, cut to length."""
        end = np.array([self.special.end], np.int64)
        if modality.unit != "chunk":
            return np.concatenate([np.asarray(value, np.int64), end])[: modality.num_tokens]
        return np.concatenate([np.zeros(0, np.int64), *leading_chunks([*value, end], modality.num_tokens)])

    def _tokens(self, segment: Segment, fed: np.random.Generator | None = None) -> Tokens:
        """What a segment puts into the row. Where the id of a grid is -1 (no label), a place is left out.

        Args:
            segment: what is to be read.
            fed: draws the patches of an image that see one another in the trunk that reads it first.
        """
        modality = self.modalities[segment.modality]
        index, asked = self.modalities.index(modality.name), segment.asked and modality.is_predicted
        if modality.is_slots:
            return self._slots(modality, segment.value, asked)
        if not modality.is_discrete:
            if modality.is_grid:
                vectors = select_patches(segment.value, modality, np.arange(modality.num_tokens))
            else:
                vectors = vectors_of(modality, segment.value)
            prefix = 0 if fed is None or not modality.is_grid else int(fed.integers(1, max(len(vectors), 2)))
            return Tokens(modality.name, index, np.arange(len(vectors)), asked, vectors=vectors, prefix=prefix)
        ids = grid_ids(modality, segment.value) if modality.is_grid else np.asarray(segment.value, np.int64)
        position = np.flatnonzero(ids != PADDING) if modality.is_grid else np.arange(len(ids))
        check_vocabulary(modality, ids[position])
        return Tokens(modality.name, index, position, asked, ids=ids[position])

    def _slots(self, modality: Modality, value: np.ndarray, asked: bool) -> Tokens:
        """An image, of which the model makes vectors, or these vectors."""
        index, size = self.modalities.index(modality.name), modality.num_tokens
        if value.ndim == 2:
            if len(value) != size:
                raise DataError(f"modality '{modality.name}': an image has {len(value)} vectors; expected {size}")
            vectors = vectors_of(modality, value)
            return Tokens(modality.name, index, np.arange(size), asked, vectors=vectors, slots=size)
        expected = modality.channels, *modality.image_size
        if value.shape != expected:
            raise DataError(f"modality '{modality.name}': an image has shape {value.shape}; expected {expected}")
        return Tokens(modality.name, index, np.arange(size), asked, image=value, slots=size)


def _is_text(modality: Modality) -> bool:
    """Whether samples hold its words alone, to which start and end are added; ids on disk are used as they are."""
    return modality.is_discrete and not modality.is_grid and modality.decode != "tokens"
