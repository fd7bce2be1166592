"""Token tables: one row per token, one column per fact; and who may attend to whom, as two integer columns.

Masks follow torch's `scaled_dot_product_attention`: True means "may attend".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fourm.errors import DataError
from fourm.modality import Modality, ModalitySet

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

PADDING = -1
_GROUP_STRIDE = 1 << 15


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
class Runs:
    """An attention pattern that falls apart into runs of tokens, as numbers that the host knows.

    Token by token and padding left out, row after row, run i of the queries sees run i of the keys and nothing else.

    Args:
        queries: tokens of each run.
        keys: tokens of what each run sees.
        causal: whether a run's token sees only itself and what comes before it.
        rows: queries of each row of the table.
        key_rows: keys of each row.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: tuple[bool, ...]
    rows: tuple[int, ...]
    key_rows: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[TokenRow]) -> Runs | None:
        """The runs of some tables, which see themselves; None if one of them does not know its own."""
        if any(row.runs is None for row in rows):
            return None
        runs = [run for row in rows for run in row.runs or ()]
        lengths, own = tuple(length for length, _ in runs), tuple(len(row) for row in rows)
        return cls(lengths, lengths, tuple(causal for _, causal in runs), own, own)

    @classmethod
    def cross(cls, queries: Runs, keys: Runs) -> Runs:
        """Every query of a row sees every key of the same row."""
        return cls(queries.rows, keys.rows, (False,) * len(queries.rows), queries.rows, keys.rows)


@dataclass(frozen=True)
class AttentionPattern:
    """Who may attend to whom: token q sees kv iff `start[q] <= kv < reach[q]` and `key_group[kv] == group[q]`.

    Args:
        reach: (B, Q) int32, end of what each query may see; 0 sees nothing.
        group: (B, Q) int32, group of each query.
        key_group: (B, K) int32, group of each key, -1 for padding; None: the keys are the queries.
        start: (B, Q) int32, first key each query may see; None: 0.
        runs: the same on the host, where it is known and falls apart so.
    """

    reach: Tensor
    group: Tensor
    key_group: Tensor | None = None
    start: Tensor | None = None
    runs: Runs | None = None

    @classmethod
    def full(cls, valid: Tensor) -> AttentionPattern:
        """Every valid token sees every valid token. `valid`: (B, N) bool."""
        return cls(reach=_where_valid(valid, valid.shape[1]), group=_group_of_valid(valid))

    @classmethod
    def causal(cls, valid: Tensor) -> AttentionPattern:
        """Every valid token sees itself and the valid tokens before it. `valid`: (B, N) bool."""
        return cls(reach=_where_valid(valid, _ends(valid)), group=_group_of_valid(valid))

    @classmethod
    def causal_after(cls, known: int, valid: Tensor) -> AttentionPattern:
        """Causal, for (B, N) tokens behind `known` ones that all of them see: those of a cache."""
        if not known:
            return cls.causal(valid)
        keys = torch.nn.functional.pad(valid, (known, 0), value=True)
        return cls(
            reach=_where_valid(valid, _ends(valid) + known),
            group=_group_of_valid(valid),
            key_group=_group_of_valid(keys),
        )

    @classmethod
    def prefix_causal(cls, valid: Tensor, prefix: Tensor) -> AttentionPattern:
        """Causal, but the first `prefix` (B,) tokens see one another too (AIM, El-Nouby et al. 2024, sec. 3.3)."""
        return cls(
            reach=_where_valid(valid, torch.maximum(_ends(valid), prefix[:, None].to(torch.int32))),
            group=_group_of_valid(valid),
        )

    @classmethod
    def blockwise(cls, block: Tensor, valid: Tensor | None = None) -> AttentionPattern:
        """Tokens see their own block and all before it; blocks are runs of equal numbers.

        Args:
            block: (B, N) integers that never fall along a row; -1 at the end is padding.
            valid: (B, N) bool, False on padding, for padding between blocks, which then has a block too.
        """
        if valid is None:
            valid = block >= 0
            block = torch.where(valid, block, torch.iinfo(block.dtype).max)
        ends = torch.searchsorted(block, block, right=True)
        return cls(reach=_where_valid(valid, ends), group=_group_of_valid(valid))

    @classmethod
    def cross(cls, valid_queries: Tensor, valid_keys: Tensor, runs: Runs | None = None) -> AttentionPattern:
        """Every valid query (B, Q) sees every valid key (B, K)."""
        reach = _where_valid(valid_queries, valid_keys.shape[1])
        return cls(reach=reach, group=_group_of_valid(valid_queries), key_group=_group_of_valid(valid_keys), runs=runs)

    def separate(self, by: Tensor, key_by: Tensor | None = None) -> AttentionPattern:
        """Split every group further, for instance by modality (4M's decoder) or document.

        Args:
            by: (B, Q) integers in [0, 2**15); only queries and keys of the same number still meet.
            key_by: (B, K) the same for the keys of a pattern that has keys of its own.
        """
        keys = self.key_group
        if keys is not None and key_by is None:
            raise ValueError("a pattern with keys of its own needs key_by")
        joined = None if keys is None or key_by is None else _join_groups(keys, key_by)
        return replace(self, group=_join_groups(self.group, by), key_group=joined, runs=None)

    def prepend(self, count: int, *, block: bool = False) -> AttentionPattern:
        """The same pattern with `count` more tokens in front: registers, in group 0.

        They see all of group 0, and all of group 0 without a `start` of its own sees them.

        Args:
            count: how many.
            block: they see one another alone, as a block that comes before all.
        """
        if self.key_group is not None:
            raise ValueError("only patterns of one token table can be extended")
        front = self.group.new_zeros(self.group.shape[0], count)
        reach = torch.where(self.reach > 0, self.reach + count, 0)
        return AttentionPattern(
            reach=torch.cat([front + (count if block else self.group.shape[1] + count), reach], dim=1),
            group=torch.cat([front, self.group], dim=1),
            start=None
            if self.start is None
            else torch.cat([front, torch.where(self.start > 0, self.start + count, 0)], dim=1),
        )

    @property
    def keys(self) -> Tensor:
        """(B, K) group of each key."""
        return self.group if self.key_group is None else self.key_group

    def dense(self) -> Tensor:
        """(B, Q, K) bool, True where the query may attend to the key."""
        index = torch.arange(self.keys.shape[1], device=self.reach.device, dtype=self.reach.dtype)
        mask = (
            (index < self.reach[..., None])
            & (self.keys[:, None, :] == self.group[..., None])
            & (self.group[..., None] >= 0)
        )
        if self.start is not None:
            mask = mask & (index >= self.start[..., None])
        return mask

    def block_mask(self) -> BlockMask:
        """The same pattern for FlexAttention."""
        from torch.nn.attention.flex_attention import create_block_mask

        reach, group, keys, start = self.reach, self.group, self.keys, self.start

        def visible(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            allowed = (
                (key < reach[batch, query]) & (keys[batch, key] == group[batch, query]) & (group[batch, query] >= 0)
            )
            return allowed if start is None else allowed & (key >= start[batch, query])

        return create_block_mask(visible, reach.shape[0], None, reach.shape[1], keys.shape[1], device=reach.device.type)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AttentionPattern:
        return _move(self, device, non_blocking)


def _where_valid(valid: Tensor, value: Tensor | int) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.int32, device=valid.device)
    return torch.where(valid, value, 0)


def _group_of_valid(valid: Tensor) -> Tensor:
    return valid.to(torch.int32) - 1


def _ends(valid: Tensor) -> Tensor:
    return torch.arange(1, valid.shape[1] + 1, device=valid.device, dtype=torch.int32)[None]


def _join_groups(group: Tensor, by: Tensor) -> Tensor:
    return torch.where(group >= 0, group * _GROUP_STRIDE + by.to(torch.int32), PADDING)


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
    return TokenBatch(
        modality=torch.from_numpy(modality),
        position=torch.from_numpy(position),
        ids=torch.from_numpy(ids),
        target_ids=torch.from_numpy(target_ids),
        attention=AttentionPattern(torch.from_numpy(reach), torch.from_numpy(group), runs=Runs.of(rows)),
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
