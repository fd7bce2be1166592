"""A slow sampler that draws nothing: it adds up the probability of every answer, from plain forward passes alone.

It shares no code with `fourm.generate`: guidance, filters, temperature, the choice of positions and the end of texts
are written anew from their definitions, in float64.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fourm.models.multimodal import Multimodal

Facts = Mapping[str, Tensor]
Answer = tuple[int, ...]
Law = dict[Answer, float]


@dataclass(frozen=True)
class Rule:
    """How one token is drawn.

    Args:
        top_k, top_p: filters; None: all tokens.
        branches: given modalities of each guided branch, without those that it does not see, and its weight; empty: no
            guidance.
    """

    top_k: int | None = None
    top_p: float | None = None
    branches: tuple[tuple[Mapping[str, Facts], float], ...] = ()

    def law(self, logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
        """(V,) probabilities of one token from its guided logits."""
        order = np.argsort(-logits, kind="stable")
        kept = order if self.top_k is None else order[: self.top_k]
        if self.top_p is not None:
            share = np.exp(logits[kept] - logits.max())
            before = np.cumsum(share / share.sum()) - share / share.sum()
            kept = kept[before < self.top_p]
        weights = np.zeros_like(logits)
        if temperature == 0:
            weights[kept[0]] = 1.0
        else:
            weights[kept] = np.exp((logits[kept] - logits.max()) / temperature)
        return weights / weights.sum()


@dataclass
class Exact:
    """The distribution of answers.

    Args:
        model: whose answers.
        given: what the unguided model sees, or with guidance what the unconditional branch sees; one row each.
        rule: of each token.
    """

    model: Multimodal
    given: Mapping[str, Facts]
    rule: Rule = field(default_factory=Rule)

    @torch.no_grad()
    def logits(self, target: str, own: Facts | None, asked: Facts) -> NDArray[np.float64]:
        """(m, V) guided logits."""

        def score(given: Mapping[str, Facts]) -> NDArray[np.float64]:
            seen = given if own is None else {**given, target: own}
            return self.model.logits(seen, {target: asked})[target][0].double().numpy()

        base = score(self.given)
        return base + sum(weight * (score(given) - base) for given, weight in self.rule.branches)

    def grid(
        self,
        target: str,
        start: Answer,
        counts: Sequence[int],
        heats: Sequence[float],
        *,
        confident: bool = False,
        remask: float = 0.0,
    ) -> Law:
        """Answers of a grid.

        Args:
            target: its name.
            start: given tokens, -1 where one is missing.
            counts: tokens per step.
            heats: temperature of each step.
            confident: MaskGIT, which draws all that is missing and keeps the most probable; otherwise ROAR.
            remask: share of what was written that is missing again at the next step.
        """
        law: dict[Answer, float] = defaultdict(float)
        states = [(1.0, start, {})]  # probability, tokens, confidence of each written position
        for number, count in enumerate(counts):
            done = sum(counts[:number])
            states = [
                (p * q, *state)
                for p, tokens, sure in states
                for q, *state in (
                    self._most_confident(target, tokens, sure, count, math.floor(remask * done), heats[number])
                    if confident
                    else self._any_order(target, tokens, count, heats[number])
                )
            ]
        for p, tokens, _ in states:
            law[tokens] += p
        return dict(law)

    def _any_order(
        self, target: str, tokens: Answer, count: int, heat: float
    ) -> Iterator[tuple[float, Answer, dict[int, float]]]:
        missing = [place for place, token in enumerate(tokens) if token < 0]
        choices = list(combinations(missing, count))
        for places in choices:
            laws = self._grid_laws(target, tokens, places, heat)
            for drawn in product(*map(_support, laws)):
                p = math.prod(law[token] for law, token in zip(laws, drawn, strict=True))
                yield p / len(choices), _write(tokens, places, drawn), {}

    def _most_confident(
        self, target: str, tokens: Answer, sure: dict[int, float], count: int, again: int, heat: float
    ) -> Iterator[tuple[float, Answer, dict[int, float]]]:
        unsure = sorted(sure, key=lambda place: (sure[place], place))[:again]
        tokens = _write(tokens, unsure, [-1] * again)
        missing = [place for place, token in enumerate(tokens) if token < 0]
        laws = dict(zip(missing, self._grid_laws(target, tokens, missing, heat), strict=True))
        plain = dict(zip(missing, self._grid_laws(target, tokens, missing, 1.0), strict=True)) if heat == 0 else laws
        for drawn in product(*(_support(laws[place]) for place in missing)):
            chosen = dict(zip(missing, drawn, strict=True))
            p = math.prod(laws[place][token] for place, token in chosen.items())
            trust = {place: plain[place][token] for place, token in chosen.items()}
            kept = sorted(missing, key=lambda place: (-trust[place], place))[: count + again]
            after = {place: trust[place] for place in kept}
            rest = {place: value for place, value in sure.items() if place not in unsure}
            yield p, _write(tokens, kept, [chosen[place] for place in kept]), {**rest, **after}

    def _grid_laws(self, target: str, tokens: Answer, places: Sequence[int], heat: float) -> list[NDArray[np.float64]]:
        shown = torch.tensor([[place if token >= 0 else -1 for place, token in enumerate(tokens)]])
        own = {"ids": torch.tensor([tokens]), "positions": shown}
        logits = self.logits(target, own, {"positions": torch.tensor([list(places)])})
        return [self.rule.law(row, heat) for row in logits]

    def text(
        self, target: str, heats: Sequence[float], *, sentinel_1: int, end: int, visible: Answer | None = None
    ) -> Law:
        """Answers of a text with one missing run, of at most as many tokens as there are temperatures.

        Args:
            target: its name.
            heats: temperature of each step.
            sentinel_1: id of `[S_1]`; smaller ones down to `end` and larger ones up to `end + 4` are sentinels too.
            end: id of the end token.
            visible: the visible part, with `[S_1]` for the missing run; None: all is missing.
        """
        sentinels = range(end + 1, end + 5)
        own = None if visible is None else {"ids": torch.tensor([visible])}
        law: dict[Answer, float] = defaultdict(float)
        states: list[tuple[float, Answer]] = [(1.0, ())]
        while states:
            p, written = states.pop()
            over = written and (written[-1] == end or (written[-1] in sentinels and written[-1] > sentinel_1))
            if over or sum(token not in sentinels for token in written) == len(heats) or len(written) == len(heats):
                law[_whole(written, visible, sentinel_1, end, sentinels)] += p
                continue
            asked = torch.tensor([[sentinel_1, *written, end]])
            token_law = self.rule.law(self.logits(target, own, {"ids": asked})[-1], heats[len(written)])
            states += [(p * token_law[token], (*written, token)) for token in _support(token_law)]
        return dict(law)


def _support(law: NDArray[np.float64]) -> list[int]:
    return np.flatnonzero(law).tolist()


def _write(tokens: Answer, places: Sequence[int], drawn: Sequence[int]) -> Answer:
    new = dict(zip(places, drawn, strict=True))
    return tuple(new.get(place, token) for place, token in enumerate(tokens))


def _whole(written: Answer, visible: Answer | None, sentinel_1: int, end: int, sentinels: range) -> Answer:
    """The text without sentinels and end."""
    run, listening = [], True
    for token in written:
        if token in sentinels:
            listening = token == sentinel_1  # what stands behind another sentinel belongs to no missing run
        elif listening and token != end:
            run.append(token)
    whole = []
    for token in visible or (sentinel_1,):
        whole += run if token == sentinel_1 else [token]
    return tuple(whole[: whole.index(end)] if end in whole else whole)


def chi_square_excess(counts: Counter[Answer], law: Law) -> float:
    """How far counts are from a law: the chi-square statistic over what it exceeds once in about 2,000 times.

    Answers expected fewer than five times count as one. An answer that the law excludes is infinitely far.
    """
    total = counts.total()
    if any(law.get(answer, 0.0) == 0 for answer in counts):
        return math.inf
    common = [answer for answer, p in law.items() if p * total >= 5]
    cells = [(counts[answer], law[answer] * total) for answer in common]
    rest = total - sum(expected for _, expected in cells)
    if rest >= 5:
        cells.append((total - sum(count for count, _ in cells), rest))
    freedom = len(cells) - 1
    if freedom == 0:
        return 0.0
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    spread = 2 / (9 * freedom)  # Wilson & Hilferty 1931: the cube root is nearly normal
    return statistic / (freedom * (1 - spread + 3.3 * math.sqrt(spread)) ** 3)
