"""Predict every token of a row from those before it (LVM, Bai et al. 2023; AIM, El-Nouby et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.modality import Modality, ModalitySet
from fourm.objectives.asking import Asking, check_vocabulary, grid_ids, vectors_of
from fourm.objectives.configs import AutoregressiveConfig
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
        ConfigError: if something is only to be predicted, which a row cannot go on from; or if nothing is predicted.
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
        tokens = sum(modalities[name].num_tokens + _is_text(modalities[name]) for name in self.order)
        self.budget = config.max_tokens or max(tokens - 1, 1)

    def prepare(self, sample: Mapping[str, Any] | Sequence[Document], rng: np.random.Generator) -> TokenRow:
        """The table of one row.

        Raises:
            DataError: if the sample does not fit the modalities, or a row of documents its budget.
        """
        row, prefix = _Row(self.config.skip_ids), rng if self.config.prefix == "uniform" else None
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

    def _tokens(self, segment: Segment, fed: np.random.Generator | None = None) -> _Tokens:
        """What a segment puts into the row. Where the id of a grid is -1 (no label), a place is left out.

        Args:
            segment: what is to be read.
            fed: draws the patches of an image that see one another in the trunk that reads it first.
        """
        modality = self.modalities[segment.modality]
        index, asked = self.modalities.index(modality.name), segment.asked and modality.is_predicted
        if not modality.is_discrete:
            if modality.is_grid:
                vectors = select_patches(segment.value, modality, np.arange(modality.num_tokens))
            else:
                vectors = vectors_of(modality, segment.value)
            prefix = 0 if fed is None or not modality.is_grid else int(fed.integers(1, max(len(vectors), 2)))
            return _Tokens(modality.name, index, np.arange(len(vectors)), asked, vectors=vectors, prefix=prefix)
        ids = grid_ids(modality, segment.value) if modality.is_grid else np.asarray(segment.value, np.int64)
        position = np.flatnonzero(ids != PADDING) if modality.is_grid else np.arange(len(ids))
        check_vocabulary(modality, ids[position])
        return _Tokens(modality.name, index, position, asked, ids=ids[position])


def _is_text(modality: Modality) -> bool:
    """Whether samples hold its words alone, to which start and end are added; ids on disk are used as they are."""
    return modality.is_discrete and not modality.is_grid and modality.decode != "tokens"


@dataclass(frozen=True)
class _Tokens:
    """What a segment puts into the row: n tokens of one modality.

    Args:
        name, index: the modality.
        position: (n,) places in its position table.
        asked: whether they are predicted.
        ids: (n,) ids, or
        vectors: (n, dim) vectors.
        prefix: how many at the beginning see one another in a trunk that reads them first, and are not asked; 0: there
            is no such trunk.
    """

    name: str
    index: int
    position: np.ndarray
    asked: bool
    ids: np.ndarray | None = None
    vectors: np.ndarray | None = None
    prefix: int = 0

    def first(self, count: int) -> _Tokens:
        """At most so many of them."""
        ids, vectors = (None if column is None else column[:count] for column in (self.ids, self.vectors))
        return _Tokens(self.name, self.index, self.position[:count], self.asked, ids, vectors, self.prefix)


def _concatenate(columns: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *columns])


class _Row:
    """The tokens of the documents of a row.

    Args:
        skip_ids: ids that are not asked.
    """

    def __init__(self, skip_ids: Sequence[int] = ()) -> None:
        self.skip_ids = skip_ids
        self.parts: list[_Tokens] = []
        self.lengths: list[int] = []
        self.prefixes: list[int] = []

    @property
    def length(self) -> int:
        """Tokens that are read: all but the last of each document."""
        return sum(max(length - 1, 0) for length in self.lengths)

    def add(self, parts: Iterable[_Tokens], prefix: np.random.Generator | None, limit: int | None = None) -> None:
        """Append a document.

        Args:
            parts: its tokens.
            prefix: draws how many tokens at its beginning see one another and are not asked, from 1 to all but one;
                None: 1, which is causal.
            limit: what is beyond so many tokens is cut off.
        """
        length = 0
        for part in parts:
            self.parts.append(part if limit is None else part.first(limit - length))
            length += len(self.parts[-1].position)
        self.lengths.append(length)
        self.prefixes.append(1 if prefix is None or length < 2 else int(prefix.integers(1, length)))

    def build(self) -> TokenRow:
        """The finished table: place by place a token that is read, and the next one that is asked."""
        counts = [len(part.position) for part in self.parts]
        lengths, prefixes = np.array(self.lengths, np.int64), np.array(self.prefixes, np.int64)
        document = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(document)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        is_read = place < lengths[document] - 1
        is_asked = np.repeat(np.array([part.asked for part in self.parts], bool), counts) & (
            place >= prefixes[document]
        )
        for start, part in zip(np.cumsum(counts) - counts, self.parts):
            is_asked[start : start + part.prefix] = False
        read = np.flatnonzero(is_read)
        ids = _concatenate(np.full(n, PADDING) if p.ids is None else p.ids for n, p in zip(counts, self.parts))
        if self.skip_ids:
            is_asked &= ~np.isin(ids, self.skip_ids)
        asked = is_asked[read + 1]

        modality = np.repeat(np.array([part.index for part in self.parts], np.int64), counts)
        position = _concatenate(part.position for part in self.parts)
        reads = np.maximum(lengths - 1, 0)
        begin = np.cumsum(reads) - reads
        return TokenRow(
            modality=modality[read],
            position=position[read],
            ids=ids[read],
            target_ids=np.where(asked, ids[read + 1], PADDING),
            reach=np.maximum(np.arange(len(read)) + 1, (begin + prefixes)[document[read]]),
            group=document[read],
            values=self._vectors(counts, is_read),
            runs=tuple((n, True) for n in reads.tolist() if n) if (prefixes == 1).all() else None,
            target_modality=np.where(asked, modality[read + 1], PADDING),
            target_values=self._vectors(counts, is_asked),
            prefix=self._prefix(),
        )

    def _prefix(self) -> dict[str, int]:
        """Modality -> patches of its image that see one another in the trunk that reads them first.

        Raises:
            DataError: if there are several images of a modality, which such a trunk does not read.
        """
        fed = [part for part in self.parts if part.prefix]
        found = {part.name: part.prefix for part in fed}
        if len(found) < len(fed):
            raise DataError("a row has several images of one modality, of which objective.prefix fed takes one")
        return found

    def _vectors(self, counts: list[int], chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Modality -> the vectors of the chosen tokens (T,), in order."""
        found: dict[str, list[np.ndarray]] = {}
        for part, mask in zip(self.parts, np.split(chosen, np.cumsum(counts)[:-1])):
            if part.vectors is not None:
                found.setdefault(part.name, []).append(part.vectors[mask])
        return {name: np.concatenate(parts) for name, parts in found.items()}
