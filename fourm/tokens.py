"""Token tables: one row per token, one column per fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.errors import DataError
from fourm.modality import Modality, ModalitySet
from fourm.patterns import AttentionPattern, Runs, packed_capacity

PADDING = -1


@dataclass(frozen=True)
class SpecialIds:
    """Ids with a meaning of their own in every text vocabulary of 4M's layout.

    Args:
        pad, unknown, start, end: padding, unknown word, start and end of a text.
        sentinel_0: id of `[S_0]`; the first sentinel in use is `[S_1]`.
        num_sentinels: how many sentinels the vocabulary has.
    """

    pad: int = 0
    unknown: int = 1
    start: int = 2
    end: int = 3
    sentinel_0: int = 4
    num_sentinels: int = 200

    def sentinel(self, number: int) -> int:
        """Id of `[S_number]`."""
        return self.sentinel_0 + number


@dataclass(frozen=True)
class TokenRow:
    """The token table of one sample, in numpy, as objectives build it in loader workers. All columns have length n.

    Args:
        modality: number of each token's modality in the model's `ModalitySet`.
        position: index of the token in its modality's position table.
        ids: token id read at this place; -1 where the place holds a mask or a vector.
        target_ids: token id asked at this place; -1 where nothing is asked.
        reach: end of what the token may see (`AttentionPattern`).
        group: its attention group.
        values: modality name -> (n_m, dim) vectors read, in table order.
        prefix: modality of pixels -> patches of its image that see one another in the trunk that reads them first.
        target_modality: number of the modality asked at this place, -1 where nothing is; None: what is asked is of the
            place's own modality, and discrete.
        target_values: modality name -> (n_m, dim) vectors asked, in table order.
        images: modality with slots -> (n, C, H, W) the images that its vectors are made of; where the vectors are known
            already, `values` has them all, num_tokens for each image.
        slots_read: modality with slots -> number of the vector that each of its tokens reads, in table order.
        slots_asked: the same of the vectors that are asked; -1: the embedding of the token that follows.
        runs: the table as runs of tokens that see one another and nothing else: length, and whether each sees only
            what comes before; None where it is not known, or otherwise.
    """

    modality: np.ndarray
    position: np.ndarray
    ids: np.ndarray
    target_ids: np.ndarray
    reach: np.ndarray
    group: np.ndarray
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    runs: tuple[tuple[int, bool], ...] | None = None
    target_modality: np.ndarray | None = None
    target_values: Mapping[str, np.ndarray] = field(default_factory=dict)
    prefix: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    slots_read: Mapping[str, np.ndarray] = field(default_factory=dict)
    slots_asked: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.modality)


@dataclass(frozen=True)
class Segment:
    """A stretch of a document: what one modality has there.

    Args:
        modality: its name.
        value: as samples hold it: ids of a grid (n,) or (h, w) or of a sequence (L,), special ids included; an image
            (C, H, W), also of a modality with slots; vectors (L, dim), of one with slots those of an image.
        asked: whether its tokens are to be predicted; else they are only read.
    """

    modality: str
    value: np.ndarray
    asked: bool = True


Document = Sequence[Segment]
"""What is read from beginning to end, such as a visual sentence or a text with pictures."""


def target_of(name: str) -> str:
    """Where a model that makes the vectors it is asked for puts them among its answers."""
    return f"{name}.target"


@dataclass(frozen=True)
class TokenBatch:
    """The token tables of a batch, padded to one length N. Row and column number a token: `row * N + column`.

    Args:
        modality: (B, N) int64, -1 is padding.
        position: (B, N) int64.
        ids: (B, N) int64, -1 where there is no id.
        target_ids: (B, N) int64, -1 where nothing is asked.
        attention: self-attention of the table; None: every token sees every token, and none is padding.
        values: modality -> (n_m, dim) float32 vectors.
        value_rows: modality -> (n_m,) int64, the tokens the vectors belong to.
        target_rows: modality -> (n_m,) int64, the tokens asked of each output modality. Sizes are known on the host, so
            a step that uses them needs no synchronisation with the device.
        target_values: modality -> (n_m, dim) float32 vectors asked, in the order of its `target_rows`.
        prefix: modality of pixels -> (B,) int64 patches of each image that see one another in the trunk that reads them
            first, while later ones see those before them; without an entry, all see all.
        images: modality with slots -> (n, C, H, W) float32 images of which the model makes num_tokens vectors each;
            without an entry, `values` has these vectors.
        slots_read: modality with slots -> (n_m,) int64, the vector that each of its `value_rows` reads.
        slots_asked: modality with slots -> (n_m,) int64, the vector that each of its `target_rows` asks; -1: the
            embedding of the token that follows it.
    """

    modality: Tensor
    position: Tensor
    ids: Tensor
    target_ids: Tensor
    attention: AttentionPattern | None
    values: dict[str, Tensor] = field(default_factory=dict)
    value_rows: dict[str, Tensor] = field(default_factory=dict)
    target_rows: dict[str, Tensor] = field(default_factory=dict)
    target_values: dict[str, Tensor] = field(default_factory=dict)
    prefix: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    slots_read: dict[str, Tensor] = field(default_factory=dict)
    slots_asked: dict[str, Tensor] = field(default_factory=dict)

    @property
    def valid(self) -> Tensor:
        """(B, N) bool, False on padding."""
        return self.modality >= 0

    @property
    def num_samples(self) -> int:
        return self.modality.shape[0]

    @property
    def num_targets(self) -> dict[str, int]:
        """Number of asked tokens per output modality, known on the host."""
        return {name: rows.shape[0] for name, rows in self.target_rows.items()}

    def targets(self, name: str) -> Tensor:
        """(n_m,) the asked ids of one modality, or its (n_m, dim) vectors; not of one with slots."""
        if name in self.target_values:
            return self.target_values[name]
        return self.target_ids.flatten()[self.target_rows[name]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TokenBatch:
        return _move(self, device, non_blocking)

    def pin_memory(self) -> TokenBatch:
        return _map(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class Example:
    """What one step sees: the context table (None for decoder-only systems) and the table that is asked."""

    encoder: TokenBatch | None
    decoder: TokenBatch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Example:
        return _move(self, device, non_blocking)

    def pin_memory(self) -> Example:
        return _map(self, lambda tensor: tensor.pin_memory())


def collate(
    rows: Sequence[TokenRow],
    modalities: ModalitySet,
    num_tokens: int | None = None,
    targets: Sequence[str] | None = None,
) -> TokenBatch:
    """Pad and stack the tables of several samples.

    Args:
        rows: one table per sample.
        modalities: names the modality numbers.
        num_tokens: length of the batch's table; None: that of the longest sample, but at least 1, so that no backend
            meets an empty dimension.
        targets: modalities that may be asked; None: the discrete ones that a model may predict.

    Raises:
        DataError: if a sample is longer than `num_tokens`.
    """
    longest = max((len(row) for row in rows), default=0)
    length = max(longest, 1) if num_tokens is None else num_tokens
    if longest > length:
        raise DataError(f"a sample has {longest} tokens, but the table is declared to hold {length}")

    shape = len(rows), length
    modality, position = np.full(shape, PADDING, np.int64), np.zeros(shape, np.int64)
    ids, target_ids = np.full(shape, PADDING, np.int64), np.full(shape, PADDING, np.int64)
    reach, group = np.zeros(shape, np.int32), np.full(shape, PADDING, np.int32)
    asked_of = np.full(shape, PADDING, np.int64)
    for i, row in enumerate(rows):
        end = len(row)
        modality[i, :end], position[i, :end] = row.modality, row.position
        ids[i, :end], target_ids[i, :end] = row.ids, row.target_ids
        reach[i, :end], group[i, :end] = row.reach, row.group
        own = row.target_modality
        asked_of[i, :end] = np.where(row.target_ids >= 0, row.modality, PADDING) if own is None else own
    flat_modality = modality.ravel()
    places = np.flatnonzero(asked_of.ravel() >= 0)
    asked_there = asked_of.ravel()[places]
    values, value_rows = {}, {}
    for name, item in modalities.items():
        if item.is_input and not item.is_discrete:
            value_rows[name] = torch.from_numpy(np.flatnonzero(flat_modality == modalities.index(name)))
            if item.is_slots:
                continue
            values[name] = _stack([row.values[name] for row in rows if name in row.values], item)
            if len(values[name]) != len(value_rows[name]):
                raise DataError(f"modality '{name}': {len(value_rows[name])} tokens but {len(values[name])} vectors")
    asked = [m.name for m in modalities.outputs] if targets is None else targets
    runs = Runs.of([row.runs for row in rows], [len(row) for row in rows])
    num_tokens = sum(map(len, rows))
    # Where a token of its row is in no group, it is not padding, but its pattern cannot tell.
    capacity = packed_capacity(num_tokens, flat_modality.size) if int((group >= 0).sum()) == num_tokens else None
    return TokenBatch(
        modality=torch.from_numpy(modality),
        position=torch.from_numpy(position),
        ids=torch.from_numpy(ids),
        target_ids=torch.from_numpy(target_ids),
        attention=AttentionPattern(torch.from_numpy(reach), torch.from_numpy(group), runs=runs, capacity=capacity),
        values=values,
        value_rows=value_rows,
        target_rows={name: torch.from_numpy(places[asked_there == modalities.index(name)]) for name in asked},
        target_values={
            name: _stack([row.target_values[name] for row in rows if name in row.target_values], modalities[name])
            for name in asked
            if not modalities[name].is_discrete and not modalities[name].is_slots
        },
        **_slots(rows, modalities, values),
        prefix={
            name: torch.tensor([row.prefix.get(name, 0) for row in rows])
            for name in dict.fromkeys(name for row in rows for name in row.prefix)
        },
    )


def _slots(
    rows: Sequence[TokenRow], modalities: ModalitySet, values: dict[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The images of modalities with slots, and which vectors made of them are read and asked.

    Args:
        rows: one table per sample.
        modalities: names the modality numbers.
        values: vectors that are known already are added here.

    Raises:
        DataError: if of some images there are pixels, and of others vectors.
    """
    found: dict[str, dict[str, Tensor]] = {"images": {}, "slots_read": {}, "slots_asked": {}}
    for name, item in modalities.items():
        if not item.is_slots:
            continue
        known = [len(row.values.get(name, ())) for row in rows]
        drawn = [len(row.images.get(name, ())) * item.num_tokens for row in rows]
        if any(known) and any(drawn):
            raise DataError(f"modality '{name}': some images of a batch are pixels, others vectors; give one of them")
        starts = np.cumsum([0, *(known if any(known) else drawn)])
        if any(known):
            values[name] = _stack([row.values[name] for row in rows if name in row.values], item)
        else:
            images = [row.images[name] for row in rows if name in row.images]
            empty = np.zeros((0, item.channels or 0, *item.image_size), np.float32)
            found["images"][name] = torch.from_numpy(np.concatenate([empty, *images], dtype=np.float32))
        for key in ("slots_read", "slots_asked"):
            columns = [getattr(row, key).get(name, np.zeros(0, np.int64)) for row in rows]
            shifted = [np.where(own < 0, own, own + start) for own, start in zip(columns, starts)]
            found[key][name] = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *shifted]))
    return found


def _stack(parts: Sequence[np.ndarray], modality: Modality) -> Tensor:
    """(n, dim) float32 vectors of all samples."""
    dim = modality.content.dim  # type: ignore[union-attr]
    stacked = np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)
    return torch.from_numpy(np.ascontiguousarray(stacked, np.float32))


def _map(item: Any, function: Any) -> Any:
    if isinstance(item, Tensor):
        return function(item)
    if isinstance(item, dict):
        return {key: _map(value, function) for key, value in item.items()}
    if isinstance(item, AttentionPattern | TokenBatch | Example):
        return type(item)(**{f.name: _map(getattr(item, f.name), function) for f in fields(item)})
    return item


def _move(item: Any, device: torch.device | str, non_blocking: bool) -> Any:
    return _map(item, lambda tensor: tensor.to(device, non_blocking=non_blocking))
