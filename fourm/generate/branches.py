"""What the model sees at a step: one branch, or with guidance several that differ in what is given.

Branches of about the same length are encoded as one batch, others one after the other: an unconditional branch that
sees hardly anything costs hardly anything.

Branch 0 of a guided step is the unconditional one: there the conditions are emptied, sequences to the lone sentinel
`[S_1]` and grids to nothing, as masked training shows them. Everything else, the target's own tokens included, is the
same in all branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fourm.generate.names import base_name
from fourm.generate.plan import Step
from fourm.generate.sampling import guide
from fourm.modality import Modality, ModalitySet
from fourm.models.ask import given_table
from fourm.models.multimodal import Context, Multimodal
from fourm.tokens import PADDING, AttentionPattern, SpecialIds, TokenBatch

Facts = Mapping[str, Tensor]
_WASTE = 0.25
"""Branches are batched while padding adds at most this share of tokens."""


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
class Pack:
    """Neighbouring branches that are encoded as one batch.

    Args:
        table: branch after branch, each with all samples.
        count: number of branches.
    """

    table: TokenBatch
    count: int

    def repeat(self, values: Tensor) -> Tensor:
        """(B, ...) -> (count * B, ...): the same in every branch."""
        return repeat(values, self.count)

    def encode(
        self, model: Multimodal, index: int = 0, positions: Tensor | None = None, ids: Tensor | None = None
    ) -> Context:
        """What the decoder attends to.

        Args:
            model: encodes.
            index: number of the modality that is appended.
            positions: (B, k) of further tokens, the same in all branches, -1 for padding; None: no tokens.
            ids: (B, k) theirs.
        """
        table = self.table
        if positions is not None and ids is not None:
            table = append_tokens(table, index, self.repeat(positions), self.repeat(ids))
        return model.encode(unmasked(table))


@dataclass(frozen=True)
class Branches:
    """All branches of a step.

    Args:
        packs: the branches in their order, batched.
        weights: guidance weight of each branch but the first; empty without guidance.
    """

    packs: tuple[Pack, ...]
    weights: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of branches."""
        return 1 + len(self.weights)

    def repeat(self, values: Tensor) -> Tensor:
        """(B, ...) -> (count * B, ...): the same in every branch."""
        return repeat(values, self.count)

    def encode(self, model: Multimodal) -> Context:
        """What the decoder attends to in all branches (count * B), the shorter ones padded."""
        contexts = [pack.encode(model) for pack in self.packs]
        if len(contexts) == 1:
            return contexts[0]
        length = max(context.hidden.shape[1] for context in contexts)
        valid = [_valid(context) for context in contexts]
        return Context(
            torch.cat([pad_columns(context.hidden, length, 0) for context in contexts]),
            torch.cat([pad_columns(columns, length, 0) for columns in valid]),
        )

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits of every pack, (pack's count * B, ...) each -> (B, ...) guided logits."""
        return self.guide(torch.cat(list(logits)))

    def guide(self, logits: Tensor) -> Tensor:
        """(count * B, ...) -> (B, ...) guided logits."""
        unconditional, *conditional = logits.float().chunk(self.count)
        return guide(unconditional, conditional, self.weights)


def repeat(values: Tensor, count: int) -> Tensor:
    """(B, ...) -> (count * B, ...)."""
    return values.repeat(count, *(1 for _ in values.shape[1:])) if count > 1 else values


def unmasked(table: TokenBatch) -> TokenBatch:
    """A table in which all see all without its pattern, where nothing in it is padding: no mask is the fastest."""
    return replace(table, attention=None) if bool(table.valid.all()) else table


def _valid(context: Context) -> Tensor:
    shape, device = context.hidden.shape[:2], context.hidden.device
    return torch.ones(shape, dtype=torch.bool, device=device) if context.valid is None else context.valid


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
    sources = {column: name for branch in reversed(contents) for column, name in branch.items()}
    order = dict.fromkeys(column for branch in contents for column in branch)
    empty = {column: emptied(modalities[column], given[sources[column]], special) for column in order}
    tables = [
        given_table(
            {column: given[branch[column]] if column in branch else empty[column] for column in order},
            modalities,
            num_samples,
            device,
        )
        for branch in contents
    ]
    target = modalities[step.target]
    # A grid's own tokens, of which half are there on average, are in view too.
    own = target.num_tokens // 2 if target.is_grid and target.is_input else 0
    batches = _batches([own + table.modality.shape[1] for table in tables])
    return Branches(tuple(Pack(stack_tables([tables[n] for n in batch]), len(batch)) for batch in batches), weights)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of neighbouring branches to be batched, given the tokens of each."""
    batches = [[0]]
    for number in range(1, len(lengths)):
        joined = [*batches[-1], number]
        sizes = [lengths[n] for n in joined]
        if max(sizes) * len(sizes) <= (1 + _WASTE) * sum(sizes):
            batches[-1] = joined
        else:
            batches.append([number])
    return batches


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
        grown = {name: name for name in conditions.grown - named}
        branches = [{**context, **grown, base_name(name): name} for name in step.conditions]
        return [context, *branches], tuple(step.conditions.values())
    context = {name: name for name in plain if name == step.target or name not in conditions.initial | conditions.grown}
    if step.guidance == 1.0 or len(context) == len(plain):
        return [plain], ()
    return [context, plain], (step.guidance,)


def emptied(modality: Modality, facts: Facts, special: SpecialIds) -> dict[str, Tensor]:
    """A value as an unconditional branch sees it: sequences as one sentinel (or zero vector), grids as no tokens."""
    if modality.is_grid:
        return {key: value if key == "values" else value[:, :0] for key, value in facts.items()}
    if modality.is_discrete:
        ids = facts["ids"].new_full((facts["ids"].shape[0], 1), special.sentinel(1))
        return {"ids": ids}
    values, valid = facts["values"], facts["valid"]
    return {"values": torch.zeros_like(values[:, :1]), "valid": torch.ones_like(valid[:, :1])}


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
