"""Learning word pieces: byte-pair merges (Sennrich et al. 2016) in WordPiece form, `##` marking what continues a word.

The `tokenizers` library's own trainer depends on the order of its hash tables, so that two runs differ; this one is a
function of its texts.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise

PREFIX = "##"
MAX_CHARACTERS = 1000
"""Rarer characters than the most frequent so many become `[UNK]`."""

Pair = tuple[str, str]


def learn_pieces(
    words: Mapping[str, int], size: int, taken: Collection[str] = (), min_frequency: int = 0, max_length: int = 100
) -> list[str]:
    """The pieces of a vocabulary.

    Args:
        words: how often each word occurs.
        size: how many new pieces are wanted.
        taken: pieces the vocabulary has already; they cost nothing and are not returned.
        min_frequency: pairs that occur less often are not joined.
        max_length: longer words are left out, since they are encoded as unknown.

    Returns:
        At most `size` pieces: characters in order, then the same as continuations, then joined ones in the order they
        were learned. Equal counts are decided by the alphabet.
    """
    characters: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) <= max_length:
            for character in word:
                characters[character] += count
    ranked = sorted(characters, key=lambda c: (-characters[c], c))
    known = set(ranked[:MAX_CHARACTERS])
    usable = {w: n for w, n in sorted(words.items()) if w and len(w) <= max_length and known.issuperset(w)}
    continued = {PREFIX + character for word in usable for character in word[1:]}
    pieces = {piece: None for piece in (*sorted(known), *sorted(continued)) if piece not in taken}
    merges = _Merges(usable)
    while len(pieces) < size:
        joined = merges.next(max(1, min_frequency))
        if joined is None:
            break
        if joined not in taken:
            pieces.setdefault(joined)
    return list(pieces)[:size]


class _Merges:
    """Words as lists of pieces, with running counts of neighbouring pairs."""

    def __init__(self, words: Mapping[str, int]) -> None:
        self.words = [[word[0], *(PREFIX + character for character in word[1:])] for word in words]
        self.counts = list(words.values())
        self.pairs: Counter[Pair] = Counter()
        self.places: defaultdict[Pair, set[int]] = defaultdict(set)
        for index in range(len(self.words)):
            self._count(index, 1)
        self.heap = [(-count, pair) for pair, count in self.pairs.items()]
        heapq.heapify(self.heap)

    def next(self, least: int) -> str | None:
        """Join the most frequent pair everywhere; None if no pair occurs `least` times."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            current = self.pairs[pair]
            if -count != current:  # an outdated entry; the current count has one of its own
                continue
            return self._join(pair) if current >= least else None
        return None

    def _join(self, pair: Pair) -> str:
        joined = pair[0] + pair[1].removeprefix(PREFIX)
        changed: set[Pair] = set()
        for index in self.places.pop(pair):
            changed |= self._count(index, -1)
            self.words[index] = _replaced(self.words[index], pair, joined)
            changed |= self._count(index, 1)
        for touched in changed:
            if self.pairs[touched] > 0:
                heapq.heappush(self.heap, (-self.pairs[touched], touched))
        return joined

    def _count(self, index: int, sign: int) -> set[Pair]:
        """Add (1) or take away (-1) the pairs of one word; returns them."""
        word = self.words[index]
        found = list(pairwise(word))
        for pair in found:
            self.pairs[pair] += sign * self.counts[index]
            if sign > 0:
                self.places[pair].add(index)
        return set(found)


def _replaced(word: list[str], pair: Pair, joined: str) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(joined)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out
