"""What the model sees at a step: one branch, or with guidance several that differ in what is given.

Branches of about the same length are encoded as one batch, others one after the other: an unconditional branch that
sees hardly anything costs hardly anything.

Branch 0 of a guided step is the unconditional one: there the conditions are emptied, sequences to the lone sentinel
`[S_1]` and grids to nothing, as masked training shows them. Everything else, the target's own tokens included, is the
same in all branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.generate.context import Facts, Memory, Pack, Seen, split, validity
from fourm.generate.names import base_name
from fourm.generate.plan import Step
from fourm.generate.sampling import guide
from fourm.generate.tables import pad_columns, repeat, stack_tables
from fourm.modality import Modality, ModalitySet
from fourm.models.ask import given_table
from fourm.models.multimodal import Context, Multimodal
from fourm.nn.trunk import KVCache
from fourm.tokens import SpecialIds

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
class Branches:
    """All branches of a step.

    Args:
        packs: the branches in their order, batched.
        weights: guidance weight of each branch but the first; empty without guidance.
    """

    packs: tuple[Seen, ...]
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
        valid = [validity(context) for context in contexts]
        return Context(
            torch.cat([pad_columns(context.hidden, length, 0) for context in contexts]),
            torch.cat([pad_columns(columns, length, 0) for columns in valid]),
        )

    def cache(self, depth: int) -> KVCache:
        """Of a decoder that writes a string; what is known of the context, which is then encoded first, is in it."""
        known = self.packs[0].cache if len(self.packs) == 1 else None
        return KVCache(depth) if known is None else known.string()

    def logits(self, model: Multimodal, target: str, hidden: Sequence[Tensor]) -> Tensor:
        """Guided logits.

        Heads are linear: guided states have guided logits, with one product over the vocabulary for all branches.

        Args:
            model: its heads.
            target: which of them.
            hidden: of every pack (pack's count * B, ..., dim) decoder states.

        Returns:
            (B, ..., vocab_size) float32.
        """
        unconditional, *conditional = torch.cat(list(hidden)).float().chunk(self.count)
        return model.heads.logits(target, guide(unconditional, conditional, self.weights)).float()


def build_branches(
    step: Step,
    given: Mapping[str, Facts],
    conditions: Conditions,
    modalities: ModalitySet,
    special: SpecialIds,
    num_samples: int,
    device: torch.device,
    memory: Memory | None = None,
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
        memory: what earlier steps have encoded, of a model with an ordered context; the order is that of `given`.
    """
    contents, weights = _contents(step, given, conditions)
    sources = {column: name for branch in reversed(contents) for column, name in branch.items()}
    order = dict.fromkeys(column for branch in contents for column in branch)
    empty = {column: emptied(modalities[column], given[sources[column]], special) for column in order}
    shown = [
        {column: given[branch[column]] if column in branch else empty[column] for column in order}
        for branch in contents
    ]
    if memory is not None:
        places = dict.fromkeys(base_name(name) for name in given)
        blocks = [[block for name in places if name in facts for block in split(name, facts[name])] for facts in shown]
        return Branches(memory.recall(blocks), weights)
    tables = [given_table(facts, modalities, num_samples, device) for facts in shown]
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
        # In the order of what is given: that of a set is another in every process.
        grown = {name: name for name in plain if name in conditions.grown - named}
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
