"""Rows of tokens made of documents: row n of an epoch is a function of the seed, the epoch and n, and of nothing else.

A file of documents is what a shard is elsewhere: its rows hold its documents alone, so that nothing larger than the
index of a file is ever kept.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fourm.data.documents import DocumentFile, Ids, find_documents
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.packing_configs import StreamConfig, WholeConfig
from fourm.errors import ConfigError, DataError
from fourm.modality import Modality
from fourm.registry import implementation
from fourm.rng import generator
from fourm.tokens import Document, Segment

_KEPT = 4
_KEPT_DOCUMENTS = 256


class Piece(NamedTuple):
    """Part of a document, its added tokens included.

    Args:
        document: its number in the file.
        start, end: which of its tokens.
    """

    document: int
    start: int
    end: int


class Stream:
    """The documents of a file in one stream, cut into rows; the last row of a file may be shorter.

    Args:
        config: length of a row, added tokens.
        lengths: (N,) tokens of each document, without what is added.
    """

    def __init__(self, config: StreamConfig, lengths: Ids) -> None:
        self.config = config
        self.lengths = lengths + config.num_added
        self._orders: OrderedDict[tuple[Any, ...], tuple[Ids, Ids]] = OrderedDict()

    def __len__(self) -> int:
        """Rows."""
        return -(-int(self.lengths.sum()) // self.config.num_tokens)

    def pieces(self, row: int, key: tuple[Any, ...]) -> tuple[list[Piece], Piece | None]:
        """What a row is made of, and the token after it.

        Args:
            row: its number.
            key: what the order of the documents depends on.
        """
        order, ends = self._order(key)
        first = row * self.config.num_tokens
        last = min(first + self.config.num_tokens, int(ends[-1]))
        pieces = list(self._cut(order, ends, first, last))
        return pieces, next(self._cut(order, ends, last, min(last + 1, int(ends[-1]))), None)

    def _cut(self, order: Ids, ends: Ids, first: int, last: int) -> Iterator[Piece]:
        place = int(np.searchsorted(ends, first, side="right"))
        while first < last:
            document, end = int(order[place]), int(ends[place])
            begin = end - int(self.lengths[document])
            if end > first:
                yield Piece(document, first - begin, min(last, end) - begin)
                first = min(last, end)
            place += 1

    def _order(self, key: tuple[Any, ...]) -> tuple[Ids, Ids]:
        """Documents in their order, and where each ends in the stream."""
        found = self._orders.get(key)
        if found is None:
            count = len(self.lengths)
            order = generator(*key, "documents").permutation(count) if self.config.shuffle else np.arange(count)
            found = self._orders[key] = order, np.cumsum(self.lengths[order])
            if len(self._orders) > _KEPT:
                self._orders.popitem(last=False)
        return found


class Whole:
    """Rows of whole documents.

    Args:
        config: length of a row, added tokens.
        lengths: (N,) tokens of each document, without what is added.

    Raises:
        DataError: if a document is longer than a row.
    """

    def __init__(self, config: WholeConfig, lengths: Ids) -> None:
        self.config = config
        self.lengths = lengths + config.num_added
        longest = int(self.lengths.argmax()) if len(lengths) else 0
        if len(lengths) and self.lengths[longest] > config.num_tokens:
            raise DataError(
                f"document {longest} has {int(self.lengths[longest])} tokens, {config.num_added} of them added, but a "
                f"row {config.num_tokens}: set packing.kind stream, which cuts documents, or a larger num_tokens"
            )
        self.rows = fill(self.lengths, config)

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    def pieces(self, row: int, key: tuple[Any, ...]) -> tuple[list[Piece], Piece | None]:
        """What a row is made of; no token comes after it.

        Args:
            row: its number.
            key: what the order of the documents in the row depends on.
        """
        held = self.rows[row]
        order = generator(*key, "row", row).permutation(len(held)) if self.config.shuffle else range(len(held))
        return [Piece(held[i], 0, int(self.lengths[held[i]])) for i in order], None


def fill(lengths: Ids, config: WholeConfig | InterleavedConfig) -> list[list[int]]:
    """Documents of each row: each goes where it leaves the least room, among the rows that are open.

    The fullest row is closed where a document fits in none. Nothing but the lengths and the settings decides.
    """
    order = generator("packing").permutation(len(lengths)) if config.shuffle else np.arange(len(lengths))
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room, number)
    for document in order:
        need = int(lengths[document])
        if not need:
            continue
        fitting = [entry for entry in open_rows if entry[0] >= need]
        if fitting:
            entry = min(fitting)
            open_rows.remove(entry)
        else:
            if len(open_rows) >= config.open_rows:
                open_rows.remove(min(open_rows))
            entry = config.num_tokens, len(rows)
            rows.append([])
        rows[entry[1]].append(int(document))
        open_rows.append((entry[0] - need, entry[1]))
    return rows


class PackedDocuments:
    """A data set whose samples are rows of packed documents of one modality.

    Args:
        name: of the data set in the recipe; keys its order.
        path: file of documents, or folder of some (`fourm.data.documents`).
        modality: what the documents hold.
        config: a `StreamConfig` or `WholeConfig`.
        max_samples: use only the first so many rows; None: all.

    Raises:
        ConfigError: if the modality is not discrete, or lacks the added tokens.
        DataError: if there are no documents, or one does not fit.
    """

    prefetch = None

    def __init__(
        self, name: str, path: str, modality: Modality, config: StreamConfig, max_samples: int | None = None
    ) -> None:
        if not modality.is_discrete:
            raise ConfigError(f"data set '{name}': documents hold ids, but modality '{modality.name}' holds vectors")
        config.check_vocabulary(modality.vocab_size)
        self.name, self.modality, self.config, self.path = name, modality, config, str(path)
        self.files = [DocumentFile(file) for file in find_documents(path)]
        self._packed: list[Any] = []
        for file in self.files:
            try:
                self._packed.append(implementation(config.target)(config, file.lengths))
            except DataError as error:
                raise DataError(f"{file.path}: {error}") from None
        self.shard_sizes = limited([len(packed) for packed in self._packed], max_samples)
        self._starts = np.cumsum([0, *self.shard_sizes])
        if not len(self):
            raise DataError(f"data set '{name}' ({path}) is empty: its files hold no documents. Make its data first")
        self._key: tuple[Any, ...] = (0, name, 0)
        self._recent: OrderedDict[tuple[int, int], Ids] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def source(self) -> PackedDocuments:
        """What errors are told by."""
        return self

    def check_resolutions(self, resolutions: Sequence[int]) -> None:
        """Documents have no size to change.

        Raises:
            ConfigError: if there are resolutions.
        """
        if resolutions:
            raise ConfigError(f"data set '{self.name}': data.resolutions is for images, not for documents")

    def at_epoch(self, seed: int, epoch: int) -> PackedDocuments:
        """The same data set as it is in one epoch of a run."""
        found = copy.copy(self)
        found._key = (seed, self.name, epoch)
        return found

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> list[Document]:
        """Row n of the epoch: one document, or with `separate` those that its tokens belong to.

        A model reads all tokens of a document but the last, and is asked all but the first. So that it reads every
        token of a stream once, a row that is cut ends with the first token of the next one.

        Args:
            n: its number.
            rng: not used: the row depends on seed, epoch and number.
            resolution: not used.

        Raises:
            DataError: if a document is damaged, or has ids outside the vocabulary.
        """
        shard, row = self._locate(n)
        pieces, after = self._packed[shard].pieces(row, (*self._key, shard))
        parts = [self._read(shard, piece.document)[piece.start : piece.end] for piece in pieces]
        if after is not None and (not self.config.separate or after.document == pieces[-1].document):
            parts[-1] = np.append(parts[-1], self._read(shard, after.document)[after.start])
        return [
            [Segment(self.modality.name, ids)] for ids in (parts if self.config.separate else [np.concatenate(parts)])
        ]

    def where(self, n: int, source: str | None = None) -> str:
        """The file and first document of row n, for errors."""
        shard, row = self._locate(n)
        pieces, _ = self._packed[shard].pieces(row, (*self._key, shard))
        return f"{self.files[shard].where(pieces[0].document)}, row {n}"

    def _locate(self, n: int) -> tuple[int, int]:
        if not 0 <= n < len(self):
            raise IndexError(f"row {n} of {len(self)} in {self.path}")
        shard = int(np.searchsorted(self._starts, n, side="right")) - 1
        return shard, n - int(self._starts[shard])

    def _read(self, shard: int, number: int) -> Ids:
        """The same as `_document`; a document that is cut is read for each of its rows, which often come together."""
        found = self._recent.get((shard, number))
        if found is None:
            found = self._recent[shard, number] = self._document(shard, number)
            if len(self._recent) > _KEPT_DOCUMENTS:
                self._recent.popitem(last=False)
        return found

    def _document(self, shard: int, number: int) -> Ids:
        """A document with its added tokens."""
        file, config = self.files[shard], self.config
        ids = file.read(number)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.modality.vocab_size:
            raise DataError(
                f"{file.where(number)}: ids from {ids.min()} to {ids.max()}, but '{self.modality.name}' has "
                f"{self.modality.vocab_size} ids. Correct vocab_size, or make the documents with its tokenizer"
            )
        bos, eos = ([] if id is None else [id] for id in (config.bos, config.eos))
        return np.concatenate([np.array(bos, np.int64), ids, np.array(eos, np.int64)])


def limited(sizes: Sequence[int], limit: int | None) -> list[int]:
    """Rows of each file when only the first `limit` are used; files without any keep their number."""
    kept, left = [], sum(sizes) if limit is None else limit
    for size in sizes:
        kept.append(min(size, left))
        left -= kept[-1]
    return kept
