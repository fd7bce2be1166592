"""Token tables from plain tensors: what a caller gives, and what a caller asks, modality by modality.

Each modality comes as a mapping of tensors: grids as `ids` (B, n) and `positions` (B, n); pixels as `values`
(B, C, H, W), normalised, and `positions` (B, n); sequences as `ids` (B, n); sequences of vectors as `values`
(B, n, dim) and `valid` (B, n). Padding is -1.

To a model with an ordered context, the order of the mapping is the order of what is given, and each modality is one
block. A grid that came in several says so by `blocks` (B, n), numbers that never fall along a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.errors import DataError
from fourm.modality import Modality, ModalitySet
from fourm.patterns import AttentionPattern
from fourm.tokens import PADDING, TokenBatch

Given = Mapping[str, Mapping[str, Tensor]]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, H/p * W/p, p * p * C): patches row by row, each as (row, column, channel)."""
    b, c, h, w = images.shape
    p = patch_size
    blocks = images.reshape(b, c, h // p, p, w // p, p)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


_BLOCKS = 1 << 20
"""More than a modality has."""


def given_table(
    given: Given, modalities: ModalitySet, num_samples: int, device: torch.device, *, ordered: bool = False
) -> TokenBatch:
    """The encoder's table of what is given.

    Args:
        given: modality -> tensors, as described above.
        modalities: those of the model.
        num_samples: batch size, needed where nothing is given.
        device: where the table lives.
        ordered: tokens see their own block and those before it, instead of all.

    Raises:
        DataError: for ids outside the vocabulary, positions outside the grid, missing tensors or wrong shapes.
    """
    parts = [
        _given_part(modalities[name], _Facts(modalities[name], facts, num_samples), modalities.index(name))
        for name, facts in given.items()
    ]
    empty = torch.zeros(num_samples, 0, dtype=torch.int64, device=device)
    columns = ("modality", "position", "ids", "block")
    modality, position, ids, block = (torch.cat([empty, *(p[k] for p in parts)], 1) for k in columns)
    values: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    start = 0
    for number, (name, part) in enumerate(zip(given, parts, strict=True)):
        length = part["ids"].shape[1]
        if "values" in part:
            values[name] = part["values"].flatten(0, 1)
            index = torch.arange(num_samples, device=device)[:, None] * ids.shape[1] + torch.arange(
                start, start + length, device=device
            )
            rows[name] = index.flatten()
        block[:, start : start + length] += number * _BLOCKS
        start += length
    for m in modalities.inputs:
        if not m.is_discrete and m.name not in values:
            values[m.name] = torch.zeros(0, m.content.dim, device=device)  # type: ignore[union-attr]
            rows[m.name] = torch.zeros(0, dtype=torch.int64, device=device)
    return TokenBatch(
        modality=modality,
        position=position,
        ids=ids,
        target_ids=torch.full_like(ids, PADDING),
        attention=AttentionPattern.blockwise(block, modality >= 0) if ordered else AttentionPattern.full(modality >= 0),
        values=values,
        value_rows=rows,
    )


def _given_part(modality: Modality, facts: _Facts, index: int) -> dict[str, Tensor]:
    if not modality.is_input:
        raise DataError(f"modality '{modality.name}' is an output of this model; it cannot be given")
    part: dict[str, Tensor] = {}
    if modality.is_discrete:
        ids = facts.integers("ids", modality.vocab_size)
        valid = ids >= 0
        positions = facts.positions(ids.shape[1]) if modality.is_grid else _running_count(valid)
        valid = valid & (positions >= 0)
        part["ids"] = torch.where(valid, ids, PADDING)
    else:
        if modality.is_grid:
            positions = facts.positions()
            valid = positions >= 0
            patches = patchify(
                facts.tensor("values", modality.channels, *modality.grid.image_size), modality.grid.patch_size
            )
            values = patches.gather(1, positions.clamp(min=0)[..., None].expand(-1, -1, patches.shape[-1]))
        else:
            values = facts.tensor("values", None, modality.content.dim)  # type: ignore[union-attr]
            valid = facts.tensor("valid", values.shape[1]).bool()
            positions = _running_count(valid)
        if not values.is_floating_point():
            raise DataError(
                f"modality '{modality.name}': values are {values.dtype}; expected floating-point numbers, normalised"
            )
        # Not a product: padding may hold anything, also values that are not finite.
        part["values"] = torch.where(valid[..., None], values, 0.0)
        part["ids"] = torch.full_like(positions, PADDING)
    _check_range(modality, "position", positions, modality.layout.num_positions)
    part["modality"] = torch.where(valid, index, PADDING)
    part["position"] = torch.where(valid, positions, 0)
    part["block"] = facts.blocks(valid.shape[1])
    return part


def ask(asked: Given, modalities: ModalitySet) -> tuple[TokenBatch, dict[str, tuple[int, int]]]:
    """The decoder's table of what is asked: grids in parallel, sequences teacher-forced, modalities kept apart.

    Returns:
        the table, and modality -> (first, one past last) column.

    Raises:
        DataError: as `given_table`.
    """
    if not asked:
        raise DataError("nothing is asked: name at least one output modality")
    columns: dict[str, tuple[int, int]] = {}
    parts: list[dict[str, Tensor]] = []
    start, num_samples = 0, None
    for name, tensors in asked.items():
        facts = _Facts(modalities[name], tensors, num_samples)
        part = _asked_part(modalities[name], facts, modalities.index(name), start)
        num_samples = part["ids"].shape[0]
        columns[name] = (start, start + part["ids"].shape[1])
        start = columns[name][1]
        parts.append(part)
    joined = {key: torch.cat([part[key] for part in parts], 1) for key in parts[0]}
    modality, ids = joined["modality"], joined["ids"]
    attention = AttentionPattern(reach=joined["reach"].int(), group=modality.int())
    return TokenBatch(modality, joined["position"], ids, torch.full_like(ids, PADDING), attention), columns


def _asked_part(modality: Modality, facts: _Facts, index: int, start: int) -> dict[str, Tensor]:
    if not modality.is_output:
        raise DataError(f"modality '{modality.name}' is an input of this model; it cannot be asked")
    if modality.is_grid:
        position = facts.positions()
        valid = position >= 0
        ids = torch.full_like(position, PADDING)
        reach = torch.full_like(position, start + position.shape[1])
    else:
        target = facts.integers("ids", modality.vocab_size)
        valid = target[:, 1:] >= 0
        ids = target[:, :-1]
        position = _running_count(valid)
        reach = start + torch.arange(1, ids.shape[1] + 1, device=ids.device).expand_as(ids)
    _check_range(modality, "position", position, modality.layout.num_positions)
    return {
        "modality": torch.where(valid, index, PADDING),
        "position": position.clamp(min=0),
        "ids": torch.where(valid, ids, PADDING),
        "reach": torch.where(valid, reach, 0),
    }


def _running_count(valid: Tensor) -> Tensor:
    return (valid.long().cumsum(1) - 1).clamp(min=0)


@dataclass(frozen=True)
class _Facts:
    """The tensors a caller hands over for one modality, checked as they are read.

    Args:
        modality: whose they are.
        tensors: by name.
        num_samples: batch size, once it is known.
    """

    modality: Modality
    tensors: Mapping[str, Tensor]
    num_samples: int | None

    def tensor(self, key: str, *shape: int | None) -> Tensor:
        """A tensor of shape (B, *shape); None stands for any size."""
        where = f"modality '{self.modality.name}'"
        if key not in self.tensors:
            raise DataError(f"{where} needs '{key}'; given: {', '.join(self.tensors) or 'nothing'}")
        tensor = self.tensors[key]
        expected = (self.num_samples, *shape)
        if tensor.dim() != len(expected) or any(e not in (None, n) for e, n in zip(expected, tensor.shape)):
            sizes = ", ".join("any" if e is None else str(e) for e in expected)
            raise DataError(f"{where}: {key} has shape {tuple(tensor.shape)}; expected ({sizes})")
        return tensor

    def integers(self, key: str, limit: int, length: int | None = None) -> Tensor:
        """(B, n) integers below `limit`."""
        numbers = self.tensor(key, length)
        if numbers.is_floating_point() or numbers.dtype == torch.bool:
            raise DataError(f"modality '{self.modality.name}': {key} are {numbers.dtype}; expected integers")
        _check_range(self.modality, key, numbers, limit)
        return numbers.long()

    def positions(self, length: int | None = None) -> Tensor:
        """(B, n) places of a grid."""
        return self.integers("positions", self.modality.layout.num_positions, length)

    def blocks(self, length: int) -> Tensor:
        """(B, n) numbers of the blocks of a modality, 0 where it is one."""
        if "blocks" not in self.tensors:
            some = next(iter(self.tensors.values()))
            return torch.zeros(some.shape[0], length, dtype=torch.int64, device=some.device)
        blocks = self.integers("blocks", _BLOCKS, length)
        if blocks.shape[1] and bool((blocks.diff(dim=1) < 0).any() | (blocks < 0).any()):
            raise DataError(
                f"modality '{self.modality.name}': blocks fall along a row, or below 0; list tokens in the order of "
                "their blocks, padding included"
            )
        return blocks


def _check_range(modality: Modality, what: str, numbers: Tensor, limit: int) -> None:
    if numbers.device.type == "meta" or numbers.numel() == 0:
        return
    low, high = int(numbers.min()), int(numbers.max())
    if high >= limit or low < PADDING:
        raise DataError(
            f"modality '{modality.name}': {what} {high if high >= limit else low} is out of range; "
            f"expected 0 to {limit - 1}, or -1 for padding"
        )
