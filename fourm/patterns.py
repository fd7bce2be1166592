"""Who may attend to whom, as integer columns of a token table.

Masks follow torch's `scaled_dot_product_attention`: True means "may attend".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

PACKED_BLOCK = 128
"""Tokens of the blocks that FlexAttention computes."""
_PARTS = 16
_NOBODY = -1
"""Group of padding."""
_GROUP_STRIDE = 1 << 15


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
    def of(cls, runs: Sequence[Sequence[tuple[int, bool]] | None], lengths: Sequence[int]) -> Runs | None:
        """The runs of some tables, which see themselves.

        Args:
            runs: of each table: the length of each run, and whether it is causal; None where they are not known.
            lengths: tokens of each table.

        Returns:
            None if one of the tables does not know its own.
        """
        known = [own for own in runs if own is not None]
        if len(known) < len(runs):
            return None
        joined, rows = [run for own in known for run in own], tuple(lengths)
        tokens = tuple(length for length, _ in joined)
        return cls(tokens, tokens, tuple(causal for _, causal in joined), rows, rows)

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
        capacity: tokens of all rows that a row without padding has room for, see `packed_capacity`; None: not known.
        key_capacity: the same of the keys, where they have groups of their own.
    """

    reach: Tensor
    group: Tensor
    key_group: Tensor | None = None
    start: Tensor | None = None
    runs: Runs | None = None
    capacity: int | None = None
    key_capacity: int | None = None

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
    def cross(cls, valid_queries: Tensor, valid_keys: Tensor, **known: Any) -> AttentionPattern:
        """Every valid query (B, Q) sees every valid key (B, K); `known`: what else the host knows of it."""
        reach = _where_valid(valid_queries, valid_keys.shape[1])
        return cls(reach=reach, group=_group_of_valid(valid_queries), key_group=_group_of_valid(valid_keys), **known)

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
        rows, columns = self.group.shape
        capacity = None
        if self.capacity is not None:
            capacity = packed_capacity(self.capacity + rows * count, rows * (columns + count))
        front = self.group.new_zeros(rows, count)
        reach = torch.where(self.reach > 0, self.reach + count, 0)
        return AttentionPattern(
            reach=torch.cat([front + (count if block else self.group.shape[1] + count), reach], dim=1),
            group=torch.cat([front, self.group], dim=1),
            start=None
            if self.start is None
            else torch.cat([front, torch.where(self.start > 0, self.start + count, 0)], dim=1),
            capacity=capacity,
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
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            n: c.to(device, non_blocking=non_blocking) for n, c in columns.items() if isinstance(c, Tensor)
        }
        return replace(self, **moved)


def packed_capacity(num_tokens: int, size: int) -> int:
    """Room for some tokens, in steps of about a sixteenth of the table, so that batches differ in it seldom.

    Args:
        num_tokens: of all rows, without padding.
        size: of the table, with padding.

    Returns:
        a multiple of `PACKED_BLOCK`, at least one.
    """
    step = PACKED_BLOCK
    while 2 * step * _PARTS <= size + step:
        step *= 2
    return max(1, -(-num_tokens // step)) * step


def _where_valid(valid: Tensor, value: Tensor | int) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.int32, device=valid.device)
    return torch.where(valid, value, 0)


def _group_of_valid(valid: Tensor) -> Tensor:
    return valid.to(torch.int32) - 1


def _ends(valid: Tensor) -> Tensor:
    return torch.arange(1, valid.shape[1] + 1, device=valid.device, dtype=torch.int32)[None]


def _join_groups(group: Tensor, by: Tensor) -> Tensor:
    return torch.where(group >= 0, group * _GROUP_STRIDE + by.to(torch.int32), _NOBODY)
