"""What the model sees at a step: one branch, or with guidance several that differ in what is given, run as one batch.

Branch 0 of a guided step is the unconditional one: there the conditions are emptied, sequences to the lone sentinel
`[S_1]` and grids to nothing, as masked training shows them. Everything else, the target's own tokens included, is the
same in all branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.generate.names import base_name
from fourm.generate.plan import Step
from fourm.generate.sampling import guide
from fourm.modality import Modality, ModalitySet
from fourm.models.ask import given_table
from fourm.tokens import PADDING, AttentionPattern, SpecialIds, TokenBatch

Facts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conditions:
    """What guidance may empty.

    Args:
        initial: modalities the user gave.
        grown: generated ones whose step says `grow_conditioning`.
    """

    initial: frozenset[str] = frozenset()
    grown: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Branches:
    """The encoder's table of all branches.

    Args:
        table: branch after branch, each with all samples.
        weights: guidance weight of each branch but the first; empty without guidance.
    """

    table: TokenBatch
    weights: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of branches."""
        return 1 + len(self.weights)

    def repeat(self, values: Tensor) -> Tensor:
        """(B, ...) -> (count * B, ...): the same in every branch."""
        return values.repeat(self.count, *(1 for _ in values.shape[1:])) if self.count > 1 else values

    def combine(self, logits: Tensor) -> Tensor:
        """(count * B, ...) -> (B, ...) guided logits."""
        unconditional, *conditional = logits.float().chunk(self.count)
        return guide(unconditional, conditional, self.weights)


def build_branches(
    step: Step,
    given: Mapping[str, Facts],
    conditions: Conditions,
    modalities: ModalitySet,
    special: SpecialIds,
    num_samples: int,
    device: torch.device,
) -> Branches:
    """The branches of a step.

    Args:
        step: its guidance.
        given: all that exists so far; further values of a modality under `name#label`.
        conditions: which of it guidance may empty.
        modalities: those of the model.
        special: the sentinels.
        num_samples: B.
        device: of the table.
    """
    contents, weights = _contents(step, given, conditions)
    columns = dict.fromkeys(column for branch in contents for column in branch)
    stacked = {}
    for column in columns:
        source = next(branch[column] for branch in contents if column in branch)
        empty = emptied(modalities[column], given[source], special)
        stacked[column] = stack([given[branch[column]] if column in branch else empty for branch in contents])
    table = given_table(stacked, modalities, len(contents) * num_samples, device)
    if not table.modality.shape[1]:
        # Kernels do not agree on attention to nothing; one column of padding is seen by nobody.
        padding = torch.full((table.num_samples, 1), PADDING, dtype=torch.int64, device=device)
        table = append_tokens(table, 0, padding, padding)
    return Branches(table, weights)


def _contents(
    step: Step, given: Mapping[str, Facts], conditions: Conditions
) -> tuple[list[dict[str, str]], tuple[float, ...]]:
    """For each branch, modality -> name of the value it sees; and the weights."""
    plain = {name: name for name in given if base_name(name) == name}
    if step.conditions:
        # What the user gave but does not guide with is context, which all branches see. What has grown is emptied with
        # the conditions, but one of them belongs to its own branch.
        named = {base_name(name) for name in step.conditions}
        context = {name: name for name in plain if name not in named | conditions.grown}
        grown = {name: name for name in conditions.grown - named if name in plain}
        branches = [{**context, **grown, base_name(name): name} for name in step.conditions]
        return [context, *branches], tuple(step.conditions.values())
    context = {name: name for name in plain if name == step.target or name not in conditions.initial | conditions.grown}
    if step.guidance == 1.0 or len(context) == len(plain):
        return [plain], ()
    return [context, plain], (step.guidance,)


def emptied(modality: Modality, facts: Facts, special: SpecialIds) -> dict[str, Tensor]:
    """A value as an unconditional branch sees it: sequences as one sentinel (or zero vector), grids as no tokens."""
    if modality.is_grid:
        return {**facts, "positions": torch.full_like(facts["positions"], PADDING)} | (
            {"ids": torch.full_like(facts["ids"], PADDING)} if "ids" in facts else {}
        )
    if modality.is_discrete:
        ids = facts["ids"].new_full((facts["ids"].shape[0], 1), special.sentinel(1))
        return {"ids": ids}
    values, valid = facts["values"], facts["valid"]
    return {"values": torch.zeros_like(values[:, :1]), "valid": torch.ones_like(valid[:, :1])}


def stack(values: Sequence[Facts]) -> dict[str, Tensor]:
    """The values of several branches as one, the shorter ones padded."""
    if len(values) == 1:
        return dict(values[0])
    stacked = {}
    for key, first in values[0].items():
        tensors = [value[key] for value in values]
        if first.ndim < 4:  # images have one size
            length = max(tensor.shape[1] for tensor in tensors)
            fill = PADDING if key in ("ids", "positions") else 0
            tensors = [pad_columns(tensor, length, fill) for tensor in tensors]
        stacked[key] = torch.cat(tensors)
    return stacked


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
    rows = {
        name: torch.div(row, max(old, 1), rounding_mode="floor") * new + row % max(old, 1)
        for name, row in table.value_rows.items()
    }
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
