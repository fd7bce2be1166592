"""Operations on the encoder's tables while generating: one below the other, longer, or without a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fourm.patterns import AttentionPattern
from fourm.tokens import PADDING, TokenBatch


def unmasked(table: TokenBatch) -> TokenBatch:
    """A table in which all see all without its pattern, where nothing in it is padding: no mask is the fastest."""
    return replace(table, attention=None) if bool(table.valid.all()) else table


def repeat(values: Tensor, count: int) -> Tensor:
    """(B, ...) -> (count * B, ...)."""
    return values.repeat(count, *(1 for _ in values.shape[1:])) if count > 1 else values


def stack_tables(tables: Sequence[TokenBatch]) -> TokenBatch:
    """Encoder's tables in which all see all, one below the other, the shorter ones padded; at least one column wide."""
    # Kernels do not agree on attention to nothing; a column of padding is seen by nobody.
    length = max(1, *(table.modality.shape[1] for table in tables))
    columns = {
        name: torch.cat([pad_columns(getattr(table, name), length, fill) for table in tables])
        for name, fill in (("modality", PADDING), ("position", 0), ("ids", PADDING), ("target_ids", PADDING))
    }
    values: dict[str, list[Tensor]] = {name: [] for name in tables[0].values}
    rows: dict[str, list[Tensor]] = {name: [] for name in tables[0].values}
    start = 0
    for table in tables:
        for name in values:
            values[name].append(table.values[name])
            rows[name].append(start + _moved(table.value_rows[name], table.modality.shape[1], length))
        start += table.num_samples * length
    return TokenBatch(
        columns["modality"],
        columns["position"],
        columns["ids"],
        columns["target_ids"],
        attention=AttentionPattern.full(columns["modality"] >= 0),
        values={name: torch.cat(parts) for name, parts in values.items()},
        value_rows={name: torch.cat(parts) for name, parts in rows.items()},
    )


def _moved(rows: Tensor, old: int, new: int) -> Tensor:
    """Numbers of tokens in a table that becomes `new` tokens long."""
    return torch.div(rows, max(old, 1), rounding_mode="floor") * new + rows % max(old, 1)


def pad_columns(tensor: Tensor, length: int, fill: int) -> Tensor:
    """(B, n, ...) -> (B, length, ...)."""
    missing = length - tensor.shape[1]
    if missing <= 0:
        return tensor
    return torch.cat([tensor, tensor.new_full((tensor.shape[0], missing, *tensor.shape[2:]), fill)], 1)


def append_tokens(table: TokenBatch, index: int, positions: Tensor, ids: Tensor) -> TokenBatch:
    """An encoder's table with more tokens of one discrete modality behind it.

    Args:
        table: (B, n), everything seeing everything.
        index: number of the modality.
        positions: (B, k), -1 for padding.
        ids: (B, k).
    """
    valid = positions >= 0
    modality = torch.cat([table.modality, torch.where(valid, index, PADDING)], 1)
    old, new = table.modality.shape[1], modality.shape[1]
    rows = {name: _moved(row, old, new) for name, row in table.value_rows.items()}
    joined = torch.cat([table.ids, torch.where(valid, ids, PADDING)], 1)
    return TokenBatch(
        modality=modality,
        position=torch.cat([table.position, positions.clamp(min=0)], 1),
        ids=joined,
        target_ids=torch.full_like(joined, PADDING),
        attention=AttentionPattern.full(modality >= 0),
        values=table.values,
        value_rows=rows,
    )
