"""What the decoder attends to, encoded: as a whole whenever anything is new, or block after block where a model can.

A model with a full context lets all tokens see all, so a new token changes everything. A model with an ordered context
keeps what it has encoded: a step costs its new tokens alone, and the next target goes on where the last one ended. What
can stay is what the old and the new blocks have in common from the first on; so partial inputs, unsure tokens that are
forgotten and conditions that come and go need no rules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from fourm.generate.tables import append_tokens, repeat, stack_tables, unmasked
from fourm.models.ask import given_table
from fourm.models.multimodal import Context, Multimodal
from fourm.nn.trunk import KVCache
from fourm.patterns import AttentionPattern
from fourm.tokens import PADDING, TokenBatch

Facts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Block:
    """Tokens of one modality that come at once, in an ordered context.

    Args:
        name: of the modality.
        facts: its tensors, as in `fourm.models.ask`.
    """

    name: str
    facts: Facts

    def same(self, other: Block) -> bool:
        """Whether it shows the same."""
        if self is other:
            return True
        ours, theirs = self.facts, other.facts
        return (
            self.name == other.name and ours.keys() == theirs.keys() and all(map(_same, ours.values(), theirs.values()))
        )


@dataclass(frozen=True)
class Own:
    """Tokens of the target itself.

    Args:
        index: number of its modality.
        positions: (B, k) in their order, -1 for padding.
        ids: (B, k).
        blocks: the same tokens as they came; empty where the context is not ordered.
    """

    index: int
    positions: Tensor
    ids: Tensor
    blocks: Sequence[Block] = ()


class Seen(Protocol):
    """Branches that are encoded together."""

    @property
    def count(self) -> int:
        """Number of branches."""
        ...

    @property
    def cache(self) -> KVCache | None:
        """The decoder's keys and values of what has been encoded; None: they are made anew."""
        ...

    def encode(self, model: Multimodal, own: Own | None = None) -> Context:
        """What the decoder attends to.

        Args:
            model: encodes.
            own: tokens of the target, the same in all branches.
        """
        ...


@dataclass(frozen=True)
class Pack:
    """Neighbouring branches of a full context, encoded as one batch.

    Args:
        table: branch after branch, each with all samples.
        count: number of branches.
    """

    table: TokenBatch
    count: int
    cache: KVCache | None = None

    def encode(self, model: Multimodal, own: Own | None = None) -> Context:
        """See `Seen.encode`."""
        table = self.table
        if own is not None:
            table = append_tokens(table, own.index, repeat(own.positions, self.count), repeat(own.ids, self.count))
        return model.encode(unmasked(table))


class Growing:
    """A branch of an ordered context, and what has been encoded of it.

    Args:
        model: encodes.
        num_samples: B.
        device: of the tokens.
        reuse: keep what is encoded. Without it all is encoded anew, for the same results: for comparison.
    """

    count = 1

    def __init__(self, model: Multimodal, num_samples: int, device: torch.device, *, reuse: bool) -> None:
        self.num_samples, self.device, self.reuse = num_samples, device, reuse
        self.base: Sequence[Block] = ()
        """The blocks beside the target's own."""
        self.encoder = KVCache(model.config.encoder_depth)
        self.cache = KVCache(model.config.decoder_depth, own=False) if reuse else None
        self.blocks: list[Block] = []
        """The encoded ones."""
        self.ends: list[int] = []
        self.context: Context | None = None

    def encode(self, model: Multimodal, own: Own | None = None) -> Context:
        """See `Seen.encode`."""
        blocks = [*self.base, *(own.blocks if own is not None else ())]
        if not self.reuse:
            table = given_table(join(blocks), model.modalities, self.num_samples, self.device, ordered=True)
            return model.encode(table if table.modality.shape[1] else stack_tables([table]))
        blocks = blocks or [Block("", {})]  # a column of padding, where there is nothing
        self._keep(self.common(blocks))
        for block in blocks[len(self.blocks) :]:
            self._append(model, block)
        assert self.context is not None
        return self.context

    def common(self, blocks: Sequence[Block]) -> int:
        """How many of these blocks, from the first on, are encoded."""
        pairs = zip(self.blocks, blocks, strict=False)
        return next(
            (n for n, (ours, new) in enumerate(pairs) if not ours.same(new)), min(len(self.blocks), len(blocks))
        )

    def _keep(self, count: int) -> None:
        """Forget all but the first blocks."""
        if count == len(self.blocks):
            return
        del self.blocks[count:], self.ends[count:]
        length = self.ends[-1] if count else 0
        self.encoder.keep(length)
        if self.cache is not None:
            self.cache.keep(length)
        if self.context is not None:
            hidden, valid = self.context.hidden, self.context.valid
            self.context = Context(hidden[:, :length], None if valid is None else valid[:, :length]) if count else None

    def _append(self, model: Multimodal, block: Block) -> None:
        given = {block.name: block.facts} if block.facts else {}
        table = unmasked(stack_tables([given_table(given, model.modalities, self.num_samples, self.device)]))
        if self.context is None:
            self.context = model.encode(table, self.encoder)
        else:
            before, valid = self.context.hidden, self.context.valid
            if valid is not None or table.attention is not None:
                valid = torch.cat([validity(self.context), table.valid], 1)
                pattern = AttentionPattern.cross(table.valid, valid)
                table = replace(table, attention=pattern)
            self.context = Context(torch.cat([before, model.encode(table, self.encoder).hidden], 1), valid)
        self.blocks.append(block)
        self.ends.append(self.context.hidden.shape[1])


class Memory:
    """The branches of a run with an ordered context, kept from target to target.

    Args:
        model: encodes.
        num_samples: B.
        device: of the tokens.
        reuse: see `Growing`.
    """

    def __init__(self, model: Multimodal, num_samples: int, device: torch.device, *, reuse: bool = True) -> None:
        self.model, self.num_samples, self.device, self.reuse = model, num_samples, device, reuse
        self.branches: list[Growing] = []

    def recall(self, contents: Sequence[Sequence[Block]]) -> tuple[Growing, ...]:
        """For each branch of a step the one that knows most of its blocks; long ones, which come last, choose first."""
        free, chosen = self.branches, []
        for blocks in reversed(contents):
            branch = max(free, key=lambda known: known.common(blocks), default=None)
            if branch is None:
                branch = Growing(self.model, self.num_samples, self.device, reuse=self.reuse)
            free = [other for other in free if other is not branch]
            branch.base = blocks
            chosen.append(branch)
        self.branches = [*chosen, *free]
        return tuple(reversed(chosen))


def validity(context: Context) -> Tensor:
    """(B, K) bool, False on padding."""
    shape, device = context.hidden.shape[:2], context.hidden.device
    return torch.ones(shape, dtype=torch.bool, device=device) if context.valid is None else context.valid


def split(name: str, facts: Facts) -> list[Block]:
    """The blocks of a modality; none where it shows no token."""
    if "blocks" not in facts:
        shown = facts["positions" if "positions" in facts else "ids" if "ids" in facts else "valid"]
        return [Block(name, facts)] if shown.shape[1] else []
    numbers, blocks = facts["blocks"], []
    for number in numbers.unique().tolist():
        inside = numbers == number
        columns = inside.any(0)
        tokens = {key: facts[key].where(inside, PADDING)[:, columns] for key in ("positions", "ids")}
        blocks.append(Block(name, tokens))
    return blocks


def join(blocks: Sequence[Block]) -> dict[str, Facts]:
    """Modality -> tensors of neighbouring blocks; those of grids that came in several say which is which."""
    joined: dict[str, Facts] = {}
    for name, group in groupby(blocks, lambda block: block.name):
        parts = [block.facts for block in group]
        joined[name] = parts[0]
        if len(parts) > 1:
            numbers = [torch.full_like(part["ids"], number) for number, part in enumerate(parts)]
            joined[name] = {
                "positions": torch.cat([part["positions"] for part in parts], 1),
                "ids": torch.cat([part["ids"] for part in parts], 1),
                "blocks": torch.cat(numbers, 1),
            }
    return joined


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))
