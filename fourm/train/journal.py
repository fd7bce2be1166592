"""What a run tells of itself as it goes on: in its log, on the terminal, and how fast it is."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fourm.train.feed import Feed
from fourm.train.meter import Meter
from fourm.train.progress import Progress
from fourm.train.state import RunState
from fourm.train.tracking import Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)


class Journal:
    """Records of training with their speed, of evaluations, and pictures.

    Args:
        feed: knows how long data were waited for.
        meter: turns tokens per second into further figures.
        display: shows the run; on the main rank alone.
        tracker: writes records; None on the other ranks.
    """

    def __init__(self, feed: Feed, meter: Meter, display: Progress, tracker: Tracker | None) -> None:
        self._feed, self._meter, self._display, self._tracker = feed, meter, display, tracker
        self._mark, self._tokens = time.perf_counter(), 0

    def begin(self, state: RunState) -> None:
        """What the next record says of speed begins here."""
        self._restart(time.perf_counter(), state)
        self._meter.start(state)

    def rewind(self, state: RunState) -> None:
        """The run has gone back to this state: what was told of later steps comes again."""
        self.begin(state)
        if self._tracker is not None:
            self._tracker.rewind(state.step)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What takes place in a `with` block does not count, so that tokens per second are those of training."""
        began = time.perf_counter()
        yield
        self._mark += time.perf_counter() - began

    def trained(self, state: RunState, progress: int, figures: Mapping[str, float]) -> None:
        """A record of the steps since the last one.

        Args:
            state: of the run.
            progress: what is done, in the unit of the run's length.
            figures: what is told of the steps: losses, learning rate.
        """
        now = time.perf_counter()
        seconds = max(now - self._mark, 1e-9)
        record = {
            **figures,
            "tokens": state.tokens,
            "tokens_per_second": (state.tokens - self._tokens) / seconds,
            "data_wait": self._feed.waited / seconds,
        }
        self._restart(now, state)
        self._display.record(state.step, progress, record)
        if self._tracker is not None:
            more = self._meter.figures(state, record["tokens_per_second"])
            self._tracker.write("train", state.step, record | more)

    def evaluated(self, state: RunState, metrics: Mapping[str, float]) -> None:
        """A record of an evaluation."""
        if self._tracker is not None:
            self._tracker.write("eval", state.step, {"tokens": state.tokens, **metrics})
            shown = "  ".join(f"{k} {v:.4g}" for k, v in list(metrics.items())[:8])
            _LOG.info("evaluation at step %d: %s", state.step, shown)

    def drew(self, state: RunState, pictures: Mapping[str, Image]) -> None:
        """Pictures of a step."""
        if self._tracker is not None:
            self._tracker.pictures(state.step, pictures)

    def _restart(self, now: float, state: RunState) -> None:
        self._mark, self._tokens, self._feed.waited = now, state.tokens, 0.0
