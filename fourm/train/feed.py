"""The data of each step, and what all ranks have to know of it before they take the step."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fourm.errors import DataError
from fourm.objectives.base import Objective
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World
from fourm.train.signals import StopRequest
from fourm.train.state import RunState
from fourm.train.watch import Watch

Loader = Callable[[dict[str, Any] | None], Iterable[tuple[Any, dict[str, Any]]]]


@dataclass(frozen=True)
class Portion:
    """What a step is made of, or why there is none.

    Args:
        batches: this rank's micro-batches.
        cursor: of the loader, after them.
        totals: count per part of the loss over all ranks and micro-batches.
        tokens: of all ranks.
        stop_for: signal that some rank got and that ends the run; 0: none.
        error: why this rank has no data.
        failed: whether some rank has none.
    """

    batches: list[Any]
    cursor: dict[str, Any] | None
    totals: dict[str, float]
    tokens: int
    stop_for: int
    error: DataError | None
    failed: bool


class Feed:
    """Portions from a loader.

    Args:
        loader: as for `Trainer`.
        objective: counts what batches hold.
        config: the recipe's `train` part.
        world: the ranks that take each step together.
        state: where the run stands; followed.
        watch: looks after what may hang.
    """

    def __init__(
        self,
        loader: Loader,
        objective: Objective,
        config: TrainConfig,
        world: World,
        state: RunState,
        watch: Watch,
    ) -> None:
        self._batches: Iterator[Any] = iter(loader(state.cursor))
        self._objective, self._config, self._world, self._watch = objective, config, world, watch
        self.waited = 0.0

    def close(self) -> None:
        """End the loader's processes."""
        close = getattr(self._batches, "close", None)
        self._batches = iter(())
        if close is not None:
            with contextlib.suppress(Exception):  # they may be dead already
                close()

    def next(self, state: RunState, stop: StopRequest) -> Portion:
        """The portion of the step that begins at `state`; without data if the run is to stop."""
        with self._watch.over("waiting for data"):
            fetched, error = self._fetch(state, stop)
        with self._watch.over("waiting for another rank to have its data"):
            totals, tokens, stop_for, failed = self._agree([batch for batch, _ in fetched], stop.number, error)
        cursor = fetched[-1][1] if fetched else None
        return Portion([batch for batch, _ in fetched], cursor, totals, tokens, stop_for, error, failed)

    def _fetch(self, state: RunState, stop: StopRequest) -> tuple[list[tuple[Any, dict[str, Any]]], DataError | None]:
        """The step's micro-batches, or why there are none; neither if the run is to stop."""
        c, began = self._config, time.perf_counter()
        fetched: list[tuple[Any, dict[str, Any]]] = []
        failure = None
        try:
            fetched = [] if stop.number else [next(self._batches) for _ in range(c.accumulation)]
        except StopIteration:
            failure = DataError(
                f"the loader ended after step {state.step} ({state.tokens} tokens), before "
                f"train.max_{c.unit}={c.length}. A loader must go on with the next epoch"
            )
        except Exception as error:
            time.sleep(0.1)  # loader processes may have died of a signal that is about to arrive here too
            if not stop.number:
                if not isinstance(error, DataError):
                    raise
                failure = error
        if failure is not None:
            self._world.tell(f"{type(failure).__name__}: {failure}")
        self.waited += time.perf_counter() - began
        return fetched, failure

    def _agree(
        self, batches: list[Any], number: int, error: DataError | None
    ) -> tuple[dict[str, float], int, int, bool]:
        """Totals, tokens, signal and whether some rank has no data, over all ranks, by one exchange on the host."""
        objective = self._objective
        counts = [objective.counts(batch) for batch in batches]
        values = [float(sum(c.get(part, 0.0) for c in counts)) for part in objective.parts]
        values += [float(sum(objective.num_tokens(batch) for batch in batches))]
        values += [float(number > 0), float(number), float(error is not None)]
        if self._world.size > 1:
            values = self._world.sum(torch.tensor(values, dtype=torch.float64)).tolist()
        *totals, tokens, stopping, numbers, failed = values
        # Ranks that have not got the signal yet end as those that have, if these agree.
        same = stopping and number in (0, numbers / stopping)
        stop_for = (int(numbers / stopping) if same else number or signal.SIGTERM) if stopping else 0
        return dict(zip(objective.parts, totals, strict=True)), int(tokens), int(stop_for), bool(failed)
