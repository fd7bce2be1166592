"""The order of samples: a pure function of seed, data set and epoch.

Any place in it can be found without replaying what came before.

Shards are shuffled, then samples are shuffled within windows of some shards. What is held in memory, and what is read
at a time, is one window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourm.rng import generator

_KEPT_WINDOWS = 2
_BLOCK = 4096


@dataclass(frozen=True)
class _Epoch:
    """Windows of one epoch: the shards of each, and the place where each begins."""

    windows: list[NDArray[np.int64]]
    starts: NDArray[np.int64]


class ShuffledOrder:
    """Visit every sample exactly once per epoch, in an order that differs by epoch.

    Args:
        sizes: samples per shard; samples are numbered shard by shard.
        seed: seed of the run.
        name: name of the data set.
        window: shards that are shuffled together.
    """

    def __init__(self, sizes: Sequence[int], seed: int, name: str, window: int) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.num_samples = int(self.sizes.sum())
        self.key = (seed, name)
        self.window = window
        self._first = np.cumsum(self.sizes) - self.sizes
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._permutations: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def sample(self, place: int) -> tuple[int, int]:
        """The epoch and the number of the sample at `place` of the endless sequence of epochs."""
        epoch, place = divmod(place, self.num_samples)
        starts = self._epoch(epoch).starts
        window = int(np.searchsorted(starts, place, side="right")) - 1
        return epoch, int(self._permutation(epoch, window)[place - int(starts[window])])

    def soon(self, place: int) -> list[int] | None:
        """The shards that follow those around `place`, told once, when these begin; None at all other places.

        The very first ones count as following nothing: they come with the second.
        """
        epoch, within = divmod(place, self.num_samples)
        starts = self._epoch(epoch).starts
        window = int(np.searchsorted(starts, within, side="right")) - 1
        if within != int(starts[window]):
            return None
        windows = self._epoch(epoch).windows
        following = windows[window + 1] if window + 1 < len(windows) else self._epoch(epoch + 1).windows[0]
        return [int(shard) for shard in (following if place else [*windows[window], *following])]

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            shards = generator(*self.key, epoch, "shards").permutation(len(self.sizes))
            windows = [shards[i : i + self.window] for i in range(0, len(shards), self.window)]
            lengths = [int(self.sizes[window].sum()) for window in windows]
            found = self._epochs[epoch] = _Epoch(windows, np.cumsum([0, *lengths[:-1]]))
            if len(self._epochs) > _KEPT_WINDOWS:
                self._epochs.popitem(last=False)
        return found

    def _permutation(self, epoch: int, window: int) -> NDArray[np.int64]:
        found = self._permutations.get((epoch, window))
        if found is None:
            shards = self._epoch(epoch).windows[window]
            numbers = np.concatenate([np.arange(self._first[s], self._first[s] + self.sizes[s]) for s in shards])
            found = self._permutations[epoch, window] = generator(*self.key, epoch, "window", window).permutation(
                numbers
            )
            if len(self._permutations) > _KEPT_WINDOWS:
                self._permutations.popitem(last=False)
        return found


class WeightedChoice:
    """Draw number i of a weighted choice, as a pure function of (seed, i).

    Args:
        weights: relative weights.
        seed: seed of the run.
        purpose: keeps choices of the same run apart.
    """

    def __init__(self, weights: Sequence[float], seed: int, purpose: str = "mixture") -> None:
        self.key = (seed, purpose)
        self._edges = np.cumsum(np.asarray(weights, np.float64) / np.sum(weights))
        self._last = int(np.flatnonzero(weights)[-1])
        self._block: tuple[int, NDArray[np.int64]] | None = None

    def __call__(self, i: int) -> int:
        """The index chosen by draw i."""
        if len(self._edges) == 1:
            return 0
        block, place = divmod(i, _BLOCK)
        if self._block is None or self._block[0] != block:
            draws = generator(*self.key, block).random(_BLOCK)
            # The clamp is for draws that rounding puts beyond the last edge.
            self._block = block, np.minimum(np.searchsorted(self._edges, draws, side="right"), self._last)
        return int(self._block[1][place])
