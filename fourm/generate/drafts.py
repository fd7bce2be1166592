"""Guesses how a text goes on, so that one pass of the model can check several tokens at once.

Texts repeat themselves and one another: boxes of one image, captions of one data set. What followed the last few
tokens where they were written before is the guess (prompt lookup decoding, Saxena 2023). Each sample draws a token from
its own random number, so guesses change how fast a text is written and not what it says: a token that was guessed
wrongly is drawn all the same, and what was guessed behind it is forgotten (Leviathan et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_ORDERS = (4, 3, 2)
"""How many tokens have to be the same as before; the longest match counts."""
_LONGEST = 15
"""Tokens of a guess: more rows make a pass slower than they save."""
_FORGET = 200_000
"""Tokens remembered at most."""


class Drafts:
    """What has been written of one modality, and what may come next.

    The guesses grow while they come true, and stop but for long matches while they do not.
    """

    def __init__(self) -> None:
        self.texts: list[list[int]] = []
        self.own: list[list[int]] = []
        self.hits = 1.0
        """Tokens of a guess that came true: a running mean."""
        self._size = 0
        self._places: dict[tuple[int, ...], tuple[list[int], int]] = {}

    def begin(self, firsts: Sequence[int]) -> None:
        """Open a text for each sample.

        Args:
            firsts: their first tokens.
        """
        if self._size > _FORGET:
            self._places.clear()
            self._size = 0
        self.own = [[first] for first in firsts]

    def add(self, tokens: Sequence[int]) -> None:
        """Note the next token of each sample's text."""
        for text, token in zip(self.own, tokens, strict=True):
            for order in _ORDERS:
                if len(text) >= order:
                    self._places[tuple(text[-order:])] = (text, len(text))
            text.append(token)
        self._size += len(self.own)

    def guess(self, most: int, live: Sequence[bool]) -> list[list[int]]:
        """What may come next, equally many tokens for every sample.

        Args:
            most: tokens there is room for.
            live: which samples still need any.

        Returns:
            a list for each sample, all empty if nothing is known to follow.
        """
        length = min(most, _LONGEST, math.ceil(2 * self.hits))
        if length < 1:
            return [[] for _ in self.own]
        found = [self._follow(text, length) if alive else None for text, alive in zip(self.own, live, strict=True)]
        length = min((len(guess) for guess in found if guess is not None), default=0)
        return [[0] * length if guess is None else guess[:length] for guess in found]

    def came_true(self, count: int) -> None:
        """Learn how many tokens of the last guess were right."""
        self.hits = 0.7 * self.hits + 0.3 * count

    def _follow(self, text: list[int], length: int) -> list[int]:
        for order in _ORDERS if self.hits > 0.25 else _ORDERS[:1]:
            if len(text) >= order and (place := self._places.get(tuple(text[-order:]))):
                before, start = place
                guess = before[start : start + length]
                if before is text:  # it repeats itself: it may go on so
                    guess = (guess * (length // len(guess) + 1))[:length]
                return guess
        return []
