"""Decoding sequences token by token with a key-value cache; the context is encoded, and its keys are made, once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fourm.generate.branches import Branches
from fourm.generate.grids import Context, stream
from fourm.generate.plan import Step
from fourm.generate.sampling import draw
from fourm.generate.schedule import temperatures
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import KVCache
from fourm.objectives.spans import unmask_spans
from fourm.rng import uniform
from fourm.tokens import PADDING, AttentionPattern, SpecialIds, TokenBatch

_CHECK_EVERY = 16
"""Steps between looks whether all samples have ended, where a look makes the device wait."""


@dataclass(frozen=True)
class Answers:
    """Generated target strings.

    Args:
        ids: (B, n) int64, `[S_1]` first, padded with -1 behind the end.
    """

    ids: Tensor


class SequenceDecoder:
    """Writes the target string of a sequence: `[S_1]`, the first missing run, `[S_2]`, ...

    Args:
        model: predicts the tokens.
        step: temperature and length; its target is a sequence.
        branches: what the model sees.
        seeds: (B,) of the samples.
        special: sentinels and end token.
    """

    def __init__(self, model: Multimodal, step: Step, branches: Branches, seeds: Tensor, special: SpecialIds) -> None:
        self.model, self.step, self.branches, self.seeds, self.special = model, step, branches, seeds, special
        self.modality = model.modalities[step.target]
        self.index = model.modalities.index(step.target)
        self.stream = stream(step.target, "token")

    def run(self, visible: Tensor | None) -> Answers:
        """Write until every sample has ended.

        A sample ends with the end token, with the sentinel behind its last missing run, or where the sequence, its
        visible part included, has its greatest length.

        Args:
            visible: (B, n) the visible part of the sequence with sentinels for its missing runs, padded with -1; None:
                all of it is missing, as it is where a row holds nothing.
        """
        context, valid = self.model.encode(self.branches.table)
        num_runs = self._num_runs(visible)
        room = self._room(visible)
        limit = (room + num_runs - 1).clamp(max=self.modality.layout.num_positions)
        limit = torch.where((num_runs > 0) & (room > 0), limit, 0)
        longest = int(limit.max())
        heat = temperatures(self.step.temperature_schedule, self.step.temperature, np.ones((longest, 1), np.int64))
        cache = KVCache(self.model.config.decoder_depth)
        token = self.seeds.new_full(self.seeds.shape, self.special.sentinel(1))
        written, ended = [token], limit <= 0
        for number in range(longest):
            if (number % _CHECK_EVERY == 0 or token.device.type == "cpu") and bool(ended.all()):
                break
            logits = self._logits(token, number, (context, valid), cache)
            uniforms = uniform(self.seeds[:, None], self.stream, number, 0)
            drawn = draw(logits, uniforms, float(heat[number, 0]), top_k=self.step.top_k, top_p=self.step.top_p)
            token = drawn.ids[:, 0]
            written.append(torch.where(ended, PADDING, token))
            room = room - (~self._is_sentinel(token)).long()
            ended = ended | self._is_end(token, num_runs) | (room <= 0) | (number + 1 >= limit)
        return Answers(torch.stack(written, 1))

    def _room(self, visible: Tensor | None) -> Tensor:
        """(B,) tokens each sample may still have: as in training, all with the end are at most `max_tokens`."""
        room = torch.full_like(self.seeds, self.modality.num_tokens)
        if visible is not None:
            room = room - ((visible >= 0) & ~self._is_sentinel(visible)).sum(1)
        return room.clamp(max=self.step.num_tokens or self.modality.num_tokens)

    def _num_runs(self, visible: Tensor | None) -> Tensor:
        """(B,) how many missing runs each sample has."""
        if visible is None:
            return torch.ones_like(self.seeds)
        return torch.where((visible >= 0).any(1), self._is_sentinel(visible).sum(1), 1)

    def _is_sentinel(self, ids: Tensor) -> Tensor:
        return (ids >= self.special.sentinel_0) & (ids < self.special.sentinel(self.special.num_sentinels))

    def _is_end(self, token: Tensor, num_runs: Tensor) -> Tensor:
        behind = self._is_sentinel(token) & (token > self.special.sentinel_0 + num_runs)
        return (token == self.special.end) | behind

    def _logits(self, token: Tensor, number: int, context: Context, cache: KVCache | None) -> Tensor:
        """(B, 1, V) guided logits of the token behind `token`, which is number `number` of its string."""
        ids = self.branches.repeat(token[:, None])
        zeros = torch.zeros_like(ids)
        group = zeros.int()
        # The cache holds all earlier tokens: the new one sees them and itself.
        attention = AttentionPattern(reach=group + number + 1, group=group, key_group=group.expand(-1, number + 1))
        table = TokenBatch(
            modality=zeros + self.index,
            position=zeros + number,
            ids=ids,
            target_ids=torch.full_like(ids, PADDING),
            attention=attention,
        )
        hidden = self.model.decode(table, *context, cache=cache, attention=attention)
        return self.branches.combine(self.model.heads.logits(self.step.target, hidden))


def merge(answers: Tensor, visible: Tensor | None, special: SpecialIds) -> list[list[int]]:
    """Whole sequences from answers and visible parts, without sentinels and end token. Visible tokens always stay.

    Args:
        answers: (B, n) target strings.
        visible: (B, m) visible parts with sentinels; None: nothing was visible.
        special: sentinels and end token.
    """
    targets = answers.cpu().numpy()
    parts = np.full((len(targets), 1), special.sentinel(1)) if visible is None else visible.cpu().numpy()
    sequences = []
    for target, part in zip(targets, parts, strict=True):
        # An end token in an answer ends that answer, not the visible text behind it.
        answer = target[(target >= 0) & (target != special.end)]
        shown = part[part >= 0] if (part >= 0).any() else np.array([special.sentinel(1)])
        whole = unmask_spans(shown, answer, special).tolist()
        end = whole.index(special.end) if special.end in whole else len(whole)
        sequences.append(whole[:end])
    return sequences


def pad(sequences: list[list[int]], device: torch.device) -> Tensor:
    """(B, longest) int64, padded with -1."""
    longest = max(map(len, sequences), default=0)
    rows = [[*sequence, *[PADDING] * (longest - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(sequences), longest)
