"""Decoding grids in parallel, by MaskGIT or ROAR. Every missing token is filled once; given tokens never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fourm.generate.branches import Branches
from fourm.generate.context import Block, Facts, Own, Seen, join
from fourm.generate.plan import Step
from fourm.generate.sampling import Drawn, check_finite, draw
from fourm.generate.schedule import temperatures, token_counts
from fourm.generate.tables import repeat, unmasked
from fourm.models.multimodal import Context, Multimodal
from fourm.patterns import AttentionPattern
from fourm.rng import key_hash, uniform
from fourm.tokens import PADDING, TokenBatch


def stream(target: str, purpose: str) -> int:
    """A number that keeps the draws of one target and purpose apart from all others."""
    return key_hash(target, purpose) & 0x7FFF_FFFF_FFFF_FFFF


@dataclass
class GridCanvas:
    """A grid while it is filled.

    Args:
        ids: (B, N) int64, -1 where a token is missing.
        probabilities: (B, N, V) of each token when it was chosen; None: not kept.
        confidence: (B, N) of each token when it was chosen, infinite where it was given; None: not kept.
        blocks: positions and ids of the tokens, as they came, for an ordered context; None: not kept.
    """

    ids: Tensor
    probabilities: Tensor | None = None
    confidence: Tensor | None = None
    blocks: list[dict[str, Tensor]] | None = None

    def known(self, most: int) -> tuple[Tensor, Tensor]:
        """Positions and ids (B, most) of the tokens that exist, in order, padded with -1."""
        order = torch.argsort((self.ids < 0).byte(), dim=1, stable=True)[:, :most]
        ids = self.ids.gather(1, order)
        return torch.where(ids >= 0, order, PADDING), ids

    def missing(self, most: int) -> Tensor:
        """(B, most) positions without a token, in order, padded with -1."""
        order = torch.argsort((self.ids >= 0).byte(), dim=1, stable=True)[:, :most]
        return torch.where(self.ids.gather(1, order) < 0, order, PADDING)

    def write(self, positions: Tensor, ids: Tensor, confidence: Tensor | None = None) -> None:
        """Put (B, m) ids, and how likely they were, at their positions; -1 writes nothing."""
        self.ids = _placed(self.ids, positions, ids)
        if self.confidence is not None and confidence is not None:
            self.confidence = _placed(self.confidence, positions, confidence)
        self.note(positions)

    def facts(self, name: str) -> Facts:
        """The whole grid, as later targets are given it."""
        if self.blocks is not None:
            return join([Block(name, facts) for facts in self.blocks])[name]
        return {
            "ids": self.ids,
            "positions": torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids),
        }

    def forget(self, count: NDArray[np.int64]) -> None:
        """Of each row, make the (B,) least confident tokens missing again; given ones never."""
        if self.confidence is not None and count.any():
            unsure = self.confidence.masked_fill(self.ids < 0, torch.inf)
            number = torch.from_numpy(count).to(unsure.device)
            self.ids = self.ids.masked_fill(_rank(unsure) < number[:, None], PADDING)
            if self.blocks is not None:
                self.blocks = [self._left(block["positions"]) for block in self.blocks]

    def note(self, positions: Tensor) -> None:
        """Keep the tokens at (B, m) positions, -1 for none, as a block."""
        if self.blocks is None:
            return
        most = int((positions >= 0).sum(1).max())
        if most:
            order = torch.argsort((positions < 0).byte(), dim=1, stable=True)[:, :most]
            self.blocks.append(self._left(positions.gather(1, order)))

    def _left(self, positions: Tensor) -> dict[str, Tensor]:
        """Those of (B, m) positions that have a token, and their ids."""
        ids = self.ids.gather(1, positions.clamp(min=0)).where(positions >= 0, PADDING)
        return {"positions": positions.where(ids >= 0, PADDING), "ids": ids}

    def write_probabilities(self, positions: Tensor, probabilities: Tensor) -> None:
        """Keep the (B, m, V) probabilities of these positions."""
        if self.probabilities is not None:
            rows, columns = (positions >= 0).nonzero(as_tuple=True)
            self.probabilities[rows, positions[rows, columns]] = probabilities[rows, columns]


class GridDecoder:
    """Fills a grid step by step.

    Args:
        model: predicts the tokens.
        step: scheme, schedule and temperatures; its target is a grid.
        branches: what the model sees beside the target's own tokens.
        seeds: (B,) of the samples.
    """

    def __init__(self, model: Multimodal, step: Step, branches: Branches, seeds: Tensor) -> None:
        self.model, self.step, self.branches, self.seeds = model, step, branches, seeds
        modality = model.modalities[step.target]
        self.index, self.vocab_size = model.modalities.index(step.target), modality.vocab_size
        self.can_read = modality.is_input
        self.stream = stream(step.target, "token")

    def run(self, ids: Tensor) -> GridCanvas:
        """Fill a grid.

        Args:
            ids: (B, N) given tokens, -1 where one is to be generated.
        """
        canvas = GridCanvas(ids)
        if self.step.remask:
            canvas.confidence = torch.full(ids.shape, torch.inf, device=ids.device)
        if self.step.keep_probabilities:
            certain = torch.nn.functional.one_hot(ids.clamp(min=0), self.vocab_size).float()
            canvas.probabilities = certain * (ids >= 0)[..., None]
        if self.model.is_ordered and self.can_read:
            canvas.blocks = []
            canvas.note(torch.arange(ids.shape[1], device=ids.device).where(ids >= 0, PADDING))
        num_missing = (ids < 0).sum(1).tolist()
        counts = token_counts(self.step.schedule, num_missing, self.step.num_steps)
        heat = temperatures(self.step.temperature_schedule, self.step.temperature, counts)
        order = self._random_order(ids)
        done = np.zeros(len(num_missing), np.int64)
        for number, count in enumerate(counts):
            if count.any():
                again = np.where(count > 0, np.floor(self.step.remask * done), 0).astype(np.int64)
                canvas.forget(again)
                left = np.array(num_missing) - done + again
                contexts = self._contexts(canvas, int((ids.shape[1] - left).max()))
                if self.step.scheme == "roar":
                    positions = _window(order, done, count)
                    self._fill(canvas, contexts, positions, heat[number], number)
                else:
                    positions = canvas.missing(int(left.max()))
                    self._fill(canvas, contexts, positions, heat[number], number, keep=count + again)
            done += count
        return canvas

    def _random_order(self, ids: Tensor) -> Tensor:
        """(B, N) the missing positions of each sample in an order of its own, then the others."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        keys = uniform(self.seeds[:, None], stream(self.step.target, "order"), positions)
        return torch.argsort(keys.masked_fill(ids >= 0, 2.0), dim=1, stable=True)

    def _contexts(self, canvas: GridCanvas, num_known: int) -> list[Context]:
        """Encode what is given and what exists of the target, pack by pack."""
        own = None
        if self.can_read:
            blocks = [Block(self.step.target, facts) for facts in canvas.blocks or ()]
            own = Own(self.index, *canvas.known(num_known), blocks)
        return [pack.encode(self.model, own) for pack in self.branches.packs]

    def _fill(
        self,
        canvas: GridCanvas,
        contexts: Sequence[Context],
        positions: Tensor,
        temperature: NDArray[np.float64],
        number: int,
        keep: NDArray[np.int64] | None = None,
    ) -> None:
        """Predict tokens at (B, m) positions and write them, or of each sample the `keep` most confident ones."""
        packs = zip(self.branches.packs, contexts, strict=True)
        hidden = [self._hidden(pack, context, positions) for pack, context in packs]
        logits = self.branches.logits(self.model, self.step.target, hidden)
        uniforms = uniform(self.seeds[:, None], self.stream, number, positions.clamp(min=0))
        drawn = draw(logits, uniforms, temperature, top_k=self.step.top_k, top_p=self.step.top_p)
        check_finite(drawn.confidence.isfinite().all(), self.step.target)
        if keep is not None:
            positions = most_confident(drawn, positions, torch.from_numpy(keep).to(positions.device))
        canvas.write(positions, drawn.ids, drawn.confidence)
        if canvas.probabilities is not None:
            canvas.write_probabilities(positions, logits.softmax(-1))

    def _hidden(self, pack: Seen, context: Context, positions: Tensor) -> Tensor:
        """(count * B, m, dim) decoder states of a pack."""
        asked = repeat(positions, pack.count)
        valid = asked >= 0
        nothing = torch.full_like(asked, PADDING)
        table = TokenBatch(
            modality=torch.where(valid, self.index, PADDING),
            position=asked.clamp(min=0),
            ids=nothing,
            target_ids=nothing,
            attention=AttentionPattern.full(valid),
        )
        return self.model.decode(unmasked(table), context, pack.cache)


def most_confident(drawn: Drawn, positions: Tensor, count: Tensor) -> Tensor:
    """Of each row the `count` positions whose tokens had the highest probability; -1 elsewhere.

    Args:
        drawn: (B, m) tokens.
        positions: (B, m), -1 for padding.
        count: (B,).
    """
    rank = _rank(-drawn.confidence.masked_fill(positions < 0, -1.0))
    return torch.where(rank < count[:, None], positions, PADDING)


def _rank(values: Tensor) -> Tensor:
    """(B, m) place of each value in the ascending order of its row; of equals, the first comes first."""
    order = torch.argsort(values, dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _placed(row: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """(B, N) with (B, m) values at their positions, -1 for none."""
    spare = torch.cat([row, row[:, :1]], 1)
    return spare.scatter_(1, torch.where(positions >= 0, positions, spare.shape[1] - 1), values)[:, :-1]


def _window(order: Tensor, done: NDArray[np.int64], count: NDArray[np.int64]) -> Tensor:
    """(B, max count) the next positions in each sample's order, padded with -1."""
    steps = torch.arange(int(count.max()), device=order.device)
    start, number = (torch.from_numpy(n).to(order.device)[:, None] for n in (done, count))
    chosen = order.gather(1, (start + steps).clamp(max=order.shape[1] - 1))
    return torch.where(steps < number, chosen, PADDING)
