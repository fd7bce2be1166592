"""Guesses how a text goes on, so that one pass of the model can check several tokens at once.

Texts repeat themselves and one another: boxes of one image, captions of one data set. What followed the last few
tokens where they were written before is the guess (prompt lookup decoding, Saxena 2023). Each sample draws a token from
its own random number, so guesses change how fast a text is written and not what it says: a token that was guessed
wrongly is drawn all the same, and what was guessed behind it is forgotten (Leviathan et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

_ORDERS = (4, 3, 2)
"""How many tokens have to be the same as before; the longest match counts."""
_LENGTHS = (2, 4, 9, 15)
"""Tokens of a guess, longer while all of it comes true: products of up to three rows take hardly longer than those of
one, and those of more take about twice as long whatever their number."""
_PATIENCE = 3
"""So many guesses in a row of which nothing came true, and only the longest matches count."""
_FORGET = 200_000
"""Tokens remembered at most."""


class Drafts:
    """What has been written of one modality, and what may come next.

    The guesses grow while they come true, and stop but for long matches while they do not.
    """

    def __init__(self) -> None:
        self.own: list[list[int]] = []
        self._right = 0
        """Guesses in a row that came true, or as a negative number those of which nothing did."""
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
        length = min(most, _LENGTHS[min(max(self._right, 0), len(_LENGTHS) - 1)])
        if length < 1:
            return [[] for _ in self.own]
        found = [self._follow(text, length) if alive else None for text, alive in zip(self.own, live, strict=True)]
        length = min((len(guess) for guess in found if guess is not None), default=0)
        return [[0] * length if guess is None else guess[:length] for guess in found]

    def came_true(self, count: int, of: int) -> None:
        """Learn how many tokens of the last guess were right."""
        self._right = max(self._right, 0) + 1 if count == of else 0 if count else min(self._right, 0) - 1

    def _follow(self, text: list[int], length: int) -> list[int]:
        for order in _ORDERS[:1] if self._right <= -_PATIENCE else _ORDERS:
            if len(text) >= order and (place := self._places.get(tuple(text[-order:]))):
                before, start = place
                guess = before[start : start + length]
                if before is text:  # it repeats itself: it may go on so
                    guess = (guess * (length // len(guess) + 1))[:length]
                return guess
        return []
