"""Decoding sequences token by token with a key-value cache; the context is encoded, and its keys are made, once.

Without the cache, every token costs the decoding of the whole string before it. With it, a pass may also check tokens
that were guessed from what has been written before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from fourm.generate.branches import Branches
from fourm.generate.drafts import Drafts
from fourm.generate.grids import stream
from fourm.generate.plan import Step
from fourm.generate.sampling import check_finite, draw
from fourm.generate.schedule import temperatures
from fourm.models.multimodal import Context, Multimodal
from fourm.nn.trunk import KVCache
from fourm.objectives.spans import unmask_spans
from fourm.patterns import AttentionPattern
from fourm.rng import uniform
from fourm.tokens import PADDING, SpecialIds, TokenBatch

_PLACES = 1 << 40
"""Beyond the ids of every vocabulary."""
_FEW = 4
"""Samples whose next tokens are guessed: of more, one is mostly wrong, and their passes are full anyway."""
_CHECK_EVERY = 16
"""Steps between looks whether all samples have ended, where a look makes the device wait."""


@dataclass(frozen=True)
class Answers:
    """Generated target strings.

    Args:
        ids: (B, n) int64, `[S_1]` first, padded with -1 behind the end.
        probabilities: (B, n - 1, V) of each token behind the first when it was drawn; None: not kept.
    """

    ids: Tensor
    probabilities: Tensor | None = None


class SequenceDecoder:
    """Writes the target string of a sequence: `[S_1]`, the first missing run, `[S_2]`, ...

    Args:
        model: predicts the tokens.
        step: temperature and length; its target is a sequence.
        branches: what the model sees.
        seeds: (B,) of the samples.
        special: sentinels and end token.
        cache: keep keys and values; False computes all of them again for every token.
        drafts: what has been written of this modality, to guess from; None: nothing is guessed.
    """

    def __init__(
        self,
        model: Multimodal,
        step: Step,
        branches: Branches,
        seeds: Tensor,
        special: SpecialIds,
        *,
        cache: bool = True,
        drafts: Drafts | None = None,
    ) -> None:
        self.model, self.step, self.branches, self.seeds, self.special = model, step, branches, seeds, special
        self.cache = cache
        self.drafts = drafts if cache and len(seeds) <= _FEW else None
        self.modality = model.modalities[step.target]
        self.index = model.modalities.index(step.target)
        self.stream = stream(step.target, "token")

    def run(self, visible: Tensor | None) -> Answers:
        """Write until every sample has ended.

        A sample ends with the end token, with the sentinel behind its last missing run, with a token that the step
        names under `stop`, or where the sequence, its visible part included, has its greatest length.

        Args:
            visible: (B, n) the visible part of the sequence with sentinels for its missing runs, padded with -1; None:
                all of it is missing, as it is where a row holds nothing.
        """
        context = self.branches.encode(self.model)
        num_runs = self._num_runs(visible)
        room = self._room(visible)
        limit = (room + num_runs - 1).clamp(max=self.modality.layout.num_positions)
        limit = torch.where((num_runs > 0) & (room > 0), limit, 0)
        longest = int(limit.max())
        # Each sample's own steps: how hot it draws does not depend on how long the others may be.
        own_steps = np.arange(longest)[:, None] < limit.cpu().numpy()
        heat = temperatures(self.step.temperature_schedule, self.step.temperature, own_steps.astype(np.int64))
        ends = self._ends(num_runs)
        cache = self.branches.cache(self.model.config.decoder_depth) if self.cache else None
        string = torch.full((len(self.seeds), longest + 1), self.special.sentinel(1), device=self.seeds.device)
        written, ended = string.clone(), limit <= 0
        confidence = torch.zeros(ended.shape, device=self.seeds.device)[:, None]
        uniforms = uniform(self.seeds[:, None], self.stream, torch.arange(longest, device=self.seeds.device), 0)
        kept, number = [], 0
        if self.drafts is not None:
            self.drafts.begin(string[:, 0].tolist())
        while number < longest:
            if number % _CHECK_EVERY == 0 or string.device.type == "cpu":
                check_finite(confidence.isfinite().all(), self.step.target)
                if bool(ended.all()):
                    break
            guess = self._guess(ended, longest - number - 1)
            first = number
            for row in self._logits(string[:, : number + 1], guess, context, cache).split(1, 1):
                if self.step.keep_probabilities:
                    kept.append(row[:, 0].softmax(-1))
                if number < self.step.min_tokens:
                    row = row.masked_fill(ends[:, None], -torch.inf)
                drawn = draw(row, uniforms[:, number, None], heat[number], top_k=self.step.top_k, top_p=self.step.top_p)
                number += 1
                string[:, number] = token = drawn.ids[:, 0]
                written[:, number] = torch.where(ended, PADDING, token)
                confidence = confidence + drawn.confidence
                room = room - (~_is_sentinel(token, self.special)).long()
                ended = ended | ends.gather(1, token[:, None])[:, 0] | (room <= 0) | (number >= limit)
                if self.drafts is not None and not self._holds(guess, number - first - 1, token, ended):
                    break
            if self.drafts is not None:
                self._settle(guess, number - first - 1, cache, number)
        length = number + 1
        check_finite(confidence.isfinite().all(), self.step.target)
        if not self.step.keep_probabilities:
            return Answers(written[:, :length])
        nothing = torch.zeros(len(self.seeds), 0, self.modality.vocab_size, device=self.seeds.device)
        return Answers(written[:, :length], torch.stack(kept, 1) if kept else nothing)

    def _room(self, visible: Tensor | None) -> Tensor:
        """(B,) tokens each sample may still have: as in training, all with the end are at most `max_tokens`."""
        room = torch.full_like(self.seeds, self.modality.num_tokens)
        if visible is not None:
            room = room - ((visible >= 0) & ~_is_sentinel(visible, self.special)).sum(1)
        return room.clamp(max=self.step.num_tokens or self.modality.num_tokens)

    def _num_runs(self, visible: Tensor | None) -> Tensor:
        """(B,) how many missing runs each sample has."""
        if visible is None:
            return torch.ones_like(self.seeds)
        return torch.where((visible >= 0).any(1), _is_sentinel(visible, self.special).sum(1), 1)

    def _ends(self, num_runs: Tensor) -> Tensor:
        """(B, V) which tokens end each sample."""
        ids = torch.arange(self.modality.vocab_size, device=num_runs.device)
        stop = torch.tensor([self.special.end, *self.step.stop], device=num_runs.device)
        behind = _is_sentinel(ids, self.special) & (ids > self.special.sentinel_0 + num_runs[:, None])
        return torch.isin(ids, stop) | behind

    def _guess(self, ended: Tensor, room: int) -> Tensor:
        """(B, k) what may come next; k is often 0."""
        if self.drafts is None:
            return self.seeds[:, None][:, :0]
        guesses = self.drafts.guess(room, (~ended).tolist())
        return torch.tensor(guesses, dtype=torch.int64, device=self.seeds.device).reshape(len(guesses), -1)

    def _holds(self, guess: Tensor, place: int, token: Tensor, ended: Tensor) -> bool:
        """Note (B,) tokens; whether they are what was guessed, so that the next row of logits stands behind them."""
        drafts = cast(Drafts, self.drafts)
        drafts.add(token.tolist())
        return place < guess.shape[1] and bool(((guess[:, place] == token) | ended).all()) and not bool(ended.all())

    def _settle(self, guess: Tensor, right: int, cache: KVCache | None, length: int) -> None:
        """After a pass with guesses of which so many were right: of the cache stays what has been written."""
        if guess.shape[1] and cache is not None:
            cast(Drafts, self.drafts).came_true(right, guess.shape[1])
            cache.keep(length)

    def _logits(self, string: Tensor, guess: Tensor, context: Context, cache: KVCache | None) -> Tensor:
        """(B, 1 + k, V) guided logits of the token behind a (B, n) string, and of those behind each of k guessed ones.

        A cache holds all of the string but its last token.
        """
        length = string.shape[1]
        first = length - 1 if cache is not None else 0
        ids = self.branches.repeat(torch.cat([string[:, first:], guess], 1))
        place = torch.arange(first, first + ids.shape[1], device=ids.device).expand_as(ids)
        table = TokenBatch(
            modality=torch.full_like(ids, self.index),
            position=place,
            ids=ids,
            target_ids=torch.full_like(ids, PADDING),
            # A single token sees all before it.
            attention=None if ids.shape[1] == 1 else AttentionPattern.causal_after(first, ids >= 0),
        )
        hidden = self.model.decode(table, context, cache=cache)[:, -1 - guess.shape[1] :]
        return self.branches.logits(self.model, self.step.target, [hidden])


def merge(answers: Tensor, visible: Tensor | None, special: SpecialIds) -> list[list[int]]:
    """Whole sequences from answers and visible parts, without sentinels and end token. Visible tokens always stay.

    Args:
        answers: (B, n) target strings.
        visible: (B, m) visible parts with sentinels; None: nothing was visible.
        special: sentinels and end token.
    """
    return [merged.tokens for merged in merge_sources(answers, visible, special)]


class Merged(NamedTuple):
    """A whole sequence.

    Args:
        tokens: its ids.
        sources: for each the column of the answers it comes from; -1 for a visible one.
    """

    tokens: list[int]
    sources: list[int]


def merge_sources(answers: Tensor, visible: Tensor | None, special: SpecialIds) -> list[Merged]:
    """As `merge`, and where each token comes from."""
    targets = answers.cpu().numpy()
    parts = np.full((len(targets), 1), special.sentinel(1)) if visible is None else visible.cpu().numpy()
    sequences = []
    for target, part in zip(targets, parts, strict=True):
        # An end token in an answer ends that answer, not the visible text behind it.
        columns = np.flatnonzero((target >= 0) & (target != special.end))
        answer = target[columns]
        shown = part[part >= 0] if (part >= 0).any() else np.array([special.sentinel(1)])
        # Places stand in for the tokens while the runs are put together.
        pool = np.concatenate([shown, answer])
        places = np.where(_is_sentinel(pool, special), pool, _PLACES + np.arange(len(pool)))
        whole = unmask_spans(places[: len(shown)], places[len(shown) :], special) - _PLACES
        tokens = pool[whole].tolist()
        end = tokens.index(special.end) if special.end in tokens else len(tokens)
        sources = np.concatenate([np.full(len(shown), -1), columns])[whole].tolist()
        sequences.append(Merged(tokens[:end], sources[:end]))
    return sequences


def _is_sentinel(ids: Any, special: SpecialIds) -> Any:
    """For each id of a tensor or an array whether it is a sentinel."""
    return (ids >= special.sentinel_0) & (ids < special.sentinel(special.num_sentinels))


def merge_probabilities(merged: Sequence[Merged], probabilities: Tensor) -> Tensor:
    """Probabilities of every token of whole sequences.

    Args:
        merged: B sequences, the longest of N tokens.
        probabilities: (B, n - 1, V) of the answers' tokens behind the first.

    Returns:
        (B, N, V); 1 for visible tokens, 0 where a sequence is padded.
    """
    device, vocab_size = probabilities.device, probabilities.shape[-1]
    ids, sources = (pad([m[i] for m in merged], device) for i in (0, 1))
    if not probabilities.shape[1]:  # nothing was missing
        probabilities = probabilities.new_zeros(len(merged), 1, vocab_size)
    drawn = probabilities.gather(1, (sources - 1).clamp(min=0)[..., None].expand(-1, -1, vocab_size))
    shown = torch.nn.functional.one_hot(ids.clamp(min=0), vocab_size).to(drawn.dtype)
    return torch.where((sources > 0)[..., None], drawn, shown) * (ids >= 0)[..., None]


def pad(sequences: list[list[int]], device: torch.device) -> Tensor:
    """(B, longest) int64, padded with -1."""
    longest = max(map(len, sequences), default=0)
    rows = [[*sequence, *[PADDING] * (longest - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(sequences), longest)
