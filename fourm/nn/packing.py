"""Tables without their padding: the tokens of all rows in one row, whose length takes few values.

FlexAttention (Dong et al. 2024) computes attention over such a row as fast as over its parts, and kernels that are
compiled for a length serve many batches. All of it is made on the device, where the lengths of rows are not waited for.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.nn.attention import AttentionMask
from fourm.nn.configs import Backend
from fourm.patterns import PACKED_BLOCK, AttentionPattern

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Way = Literal["padded", "runs", "packed"]
_LONG = 256
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_CAPABLE = (8, 0)
"""Compute capability from which FlexAttention takes bfloat16."""
_ROOMY = {(8, 0), (9, 0), (10, 0), (10, 3)}
"""A100 to B200: 160 KB and more of shared memory a block, where other kinds have 100."""
_LEAST_HEAD_BYTES, _HEAD_BYTES = 32, 256
"""From 16 channels in bfloat16 to 128, which take 130 KB in the backward pass."""


def way_of(
    backend: Backend, device: str, shape: tuple[int, int], pattern: AttentionPattern, *, flex: bool, learns: bool = True
) -> Way:
    """What is done with padding.

    Args:
        backend: what the recipe says.
        device: kind of device.
        shape: rows and columns of the table, padding included.
        pattern: of its tokens.
        flex: whether FlexAttention runs there.
        learns: whether there is a backward pass; without one, `auto` compiles no kernel for a batch.

    Returns:
        `runs`: left out, with one attention per run of tokens; `packed`: left out, with one for all; `padded`: masked.
    """
    size = shape[0] * shape[1]
    if backend == "auto" and device == "cpu":
        backend = "runs" if shape[1] >= _LONG else "auto"
    if device == "cuda" and not flex and backend == "packed":
        backend = "auto"
    elif device == "cuda" and flex and learns and backend == "auto" and (pattern.capacity or size) < size:
        backend = "packed"
    if backend == "runs" and pattern.runs is not None:
        return "runs"
    return "packed" if backend == "packed" and pattern.capacity is not None else "padded"


def has_flex(device: torch.device, head_bytes: int) -> bool:
    """Whether FlexAttention is compiled for a device, forward and backward, and has room for its blocks there.

    Args:
        device: where attention is computed.
        head_bytes: channels of a head times bytes of a number.
    """
    if device.type != "cuda" or not _HAS_TRITON:
        return False
    capability = torch.cuda.get_device_capability(device)
    largest = _HEAD_BYTES if capability in _ROOMY else _HEAD_BYTES // 2
    return capability >= _CAPABLE and _LEAST_HEAD_BYTES <= head_bytes <= largest


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a table (B, N) stand in a row (T,).

    Args:
        source: (T,) place of each in the flat table; 0 behind the last one.
        used: (T,) bool, False behind the last one.
        target: (B, N) place in the row; 0 for padding.
        valid: (B, N) bool, False on padding.
        before: (B, N + 1) how many tokens of the whole table stand before each place, and before the end of each row.
    """

    source: Tensor
    used: Tensor
    target: Tensor
    valid: Tensor
    before: Tensor

    @classmethod
    def of(cls, valid: Tensor, capacity: int) -> Packing:
        """The packing of a table.

        Args:
            valid: (B, N) bool, False on padding.
            capacity: T, no less than there are tokens.
        """
        rows, columns = valid.shape
        flat = valid.flatten()
        count = flat.cumsum(0)
        here = torch.arange(flat.shape[0], device=flat.device)
        # Padding goes to one place more, which is cut off.
        place = torch.where(flat, count - 1, capacity)
        source = torch.zeros(capacity + 1, dtype=torch.int64, device=flat.device).scatter(0, place, here)[:-1]
        used = torch.arange(capacity, device=flat.device) < count[-1]
        ends = F.pad(count, (1, 0))
        before = torch.cat([ends[:-1].view(rows, columns), ends[columns::columns, None]], 1)
        return cls(
            source=torch.where(used, source, 0),
            used=used,
            target=torch.where(flat, count - 1, 0).view(rows, columns),
            valid=valid,
            before=before,
        )

    def pack(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (1, T, dim); behind the last token stands a copy of some other one."""
        return x.flatten(0, 1).index_select(0, self.source)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(1, T, dim) -> (B, N, dim), zero on padding."""
        table = x[0].index_select(0, self.target.flatten()).view(*self.target.shape, x.shape[-1])
        return table.masked_fill(~self.valid[..., None], 0.0)

    @property
    def column(self) -> Tensor:
        """(T,) place of each token in its own row of the table."""
        return self.source % self.target.shape[1]


def packed_pattern(pattern: AttentionPattern, queries: Packing, keys: Packing) -> AttentionPattern:
    """The pattern of a table as one of the packed row: each token sees a stretch of the keys of its own row."""
    start = torch.zeros_like(pattern.reach) if pattern.start is None else pattern.start
    first, end = (keys.before.gather(1, column.to(torch.int64)).to(torch.int32) for column in (start, pattern.reach))

    def row(column: Tensor, packing: Packing, filler: int) -> Tensor:
        return torch.where(packing.used, column.flatten()[packing.source], filler)[None]

    return AttentionPattern(
        reach=row(end, queries, 0),
        group=row(pattern.group, queries, -1),
        key_group=row(pattern.keys, keys, -1),
        start=row(first, queries, 0),
    )


def packed_mask(pattern: AttentionPattern, backend: Backend, dtype: torch.dtype) -> AttentionMask:
    """A packed pattern made ready: for FlexAttention, where it has what the step needs; a dense mask elsewhere.

    Args:
        pattern: of one row, with `start`.
        backend: `math` and `sdpa` are taken as they are.
        dtype: of the attention scores.
    """
    no_backward = pattern.reach.device.type != "cuda" and torch.is_grad_enabled()
    if backend in ("math", "sdpa") or no_backward:
        return AttentionMask.prepare(pattern, "math" if backend == "math" else "sdpa", dtype)
    start = pattern.start if pattern.start is not None else torch.zeros_like(pattern.reach)
    sees = (pattern.group >= 0) & (pattern.reach > start)
    return AttentionMask("flex", _block_mask(replace(pattern, start=start), sees), sees[:, None, :, None])


def _block_mask(pattern: AttentionPattern, sees: Tensor) -> BlockMask:
    """The mask of a packed row for FlexAttention, without ever holding who sees whom.

    Queries stand in the order of their keys, so those of a block see one stretch of keys: from the first that one of
    them sees to the last.
    """
    from torch.nn.attention.flex_attention import BlockMask

    start, reach, group, keys = pattern.start, pattern.reach, pattern.group, pattern.keys
    assert start is not None
    num_keys = keys.shape[1]
    first = torch.where(sees, start, num_keys).view(1, -1, PACKED_BLOCK).amin(2) // PACKED_BLOCK
    end = -(-torch.where(sees, reach, 0).view(1, -1, PACKED_BLOCK).amax(2) // PACKED_BLOCK)
    blocks = torch.arange(num_keys // PACKED_BLOCK, device=keys.device, dtype=torch.int32)
    # All blocks in turn from the first one on; those that count come first.
    indices = (first[..., None] + blocks) % len(blocks)

    first_of, end_of, group_of, group_of_key = start[0], reach[0], group[0], keys[0]

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = group_of[query]
        return (key >= first_of[query]) & (key < end_of[query]) & (group_of_key[key] == own) & (own >= 0)

    return BlockMask.from_kv_blocks(
        (end - first).clamp(min=0).to(torch.int32)[:, None],
        indices.to(torch.int32)[:, None],
        BLOCK_SIZE=PACKED_BLOCK,
        mask_mod=visible,
        seq_lengths=(reach.shape[1], num_keys),
    )
