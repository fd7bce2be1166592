"""Rows that are read token by token: documents, each token of which asks for the next one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fourm.errors import DataError
from fourm.tokens import PADDING, TokenRow


@dataclass(frozen=True)
class Tokens:
    """What a segment puts into the row: n tokens of one modality.

    Args:
        name, index: the modality.
        position: (n,) places in its position table.
        asked: whether they are predicted.
        ids: (n,) ids, or
        vectors: (n, dim) vectors; of a modality with slots, all of its image, or
        image: (C, H, W) of which the model makes the vectors.
        slots: vectors of an image; 0: the modality has no slots.
        prefix: how many at the beginning see one another in a trunk that reads them first, and are not asked; 0: there
            is no such trunk.
    """

    name: str
    index: int
    position: np.ndarray
    asked: bool
    ids: np.ndarray | None = None
    vectors: np.ndarray | None = None
    image: np.ndarray | None = None
    slots: int = 0
    prefix: int = 0

    def first(self, count: int) -> Tokens:
        """At most so many of them."""
        ids, vectors = (None if column is None else column[:count] for column in (self.ids, self.vectors))
        return replace(self, position=self.position[:count], ids=ids, vectors=self.vectors if self.slots else vectors)


class RowBuilder:
    """The tokens of the documents of a row.

    Args:
        skip_ids: ids that are not asked.
        regress_end: the last vector of an image that is asked asks for the embedding of the token behind it.
    """

    def __init__(self, skip_ids: Sequence[int] = (), *, regress_end: bool = False) -> None:
        self.skip_ids, self.regress_end = skip_ids, regress_end
        self.parts: list[Tokens] = []
        self.lengths: list[int] = []
        self.prefixes: list[int] = []

    @property
    def length(self) -> int:
        """Tokens that are read: all but the last of each document."""
        return sum(max(length - 1, 0) for length in self.lengths)

    def add(self, parts: Iterable[Tokens], prefix: np.random.Generator | None, limit: int | None = None) -> None:
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

        modality = np.repeat(np.array([part.index for part in self.parts], np.int64), counts)
        position = _concatenate(part.position for part in self.parts)
        asked_of, slot = np.where(is_asked, modality, PADDING), self._slots(counts)
        asked_slot = slot.copy()
        if self.regress_end:
            ends = self._ends(counts, is_read, document)
            asked_of[ends], asked_slot[ends], is_asked[ends] = modality[ends - 1], PADDING, False
        reads = np.maximum(lengths - 1, 0)
        begin = np.cumsum(reads) - reads
        return TokenRow(
            modality=modality[read],
            position=position[read],
            ids=ids[read],
            target_ids=np.where(is_asked[read + 1], ids[read + 1], PADDING),
            reach=np.maximum(np.arange(len(read)) + 1, (begin + prefixes)[document[read]]),
            group=document[read],
            values=self._vectors(counts, is_read),
            runs=tuple((n, True) for n in reads.tolist() if n) if (prefixes == 1).all() else None,
            target_modality=asked_of[read + 1],
            target_values=self._vectors(counts, is_asked, targets=True),
            prefix=self._prefix(),
            images=self._images(),
            slots_read=self._by_name(modality[read], slot[read]),
            slots_asked=self._by_name(asked_of[read + 1], asked_slot[read + 1]),
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

    def _vectors(self, counts: list[int], chosen: np.ndarray, *, targets: bool = False) -> dict[str, np.ndarray]:
        """Modality -> vectors of the chosen tokens (T,), in order; all of one with slots, which are no targets."""
        found: dict[str, list[np.ndarray]] = {}
        for part, mask in zip(self.parts, np.split(chosen, np.cumsum(counts)[:-1])):
            if part.vectors is not None and not (part.slots and targets):
                found.setdefault(part.name, []).append(part.vectors if part.slots else part.vectors[mask])
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _images(self) -> dict[str, np.ndarray]:
        """Modality with slots -> (n, C, H, W) its images."""
        found: dict[str, list[np.ndarray]] = {}
        for part in self.parts:
            if part.image is not None:
                found.setdefault(part.name, []).append(part.image)
        return {name: np.stack(images) for name, images in found.items()}

    def _slots(self, counts: list[int]) -> np.ndarray:
        """(T,) which of the vectors of its modality each token of one with slots is; -1 elsewhere."""
        seen: dict[str, int] = {}
        columns = []
        for part, count in zip(self.parts, counts):
            start = seen.get(part.name, 0)
            columns.append(start + part.position if part.slots else np.full(count, PADDING))
            seen[part.name] = start + part.slots
        return _concatenate(columns)

    def _ends(self, counts: list[int], is_read: np.ndarray, document: np.ndarray) -> np.ndarray:
        """The tokens behind images that are asked, in the same document, of those that are read."""
        last = np.cumsum(counts)
        ends = np.array(
            [end for end, p in zip(last, self.parts) if p.slots and p.asked and len(p.position) == p.slots], np.int64
        )
        ends = ends[ends < len(document)]
        return ends[is_read[ends] & (document[ends] == document[ends - 1])]

    def _by_name(self, modality: np.ndarray, slot: np.ndarray) -> dict[str, np.ndarray]:
        """Modality with slots -> the numbers of its vectors among (n,) tokens, in order."""
        return {part.name: slot[modality == part.index] for part in self.parts if part.slots}


def _concatenate(columns: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *columns])
