"""How a run shows itself: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

LINE_SECONDS = 15.0
BAR_SECONDS = 0.5
_LOG = logging.getLogger(__name__)


class Progress:
    """Loss, learning rate, tokens per second and time left.

    Args:
        unit: of the run's length, `steps` or `tokens`.
        total: length of the run.
        done: what was done before this start.
        shown: False on all ranks but the main one.
    """

    def __init__(self, unit: str, total: int, done: int, *, shown: bool = True) -> None:
        self.unit, self.total, self.first = unit, total, done
        self._started = time.monotonic()
        self._last = -1e9
        self._fields = ""
        self._bar: Any = None
        self._shown = shown
        if shown:
            self._bar = _terminal_bar()
            if self._bar is not None:
                self._task = self._bar.add_task("train", total=total, completed=done, fields="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int) -> None:
        """Note that so much of the run is done; cheap, as the bar moves only now and then."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._last >= BAR_SECONDS:
            self._last = now
            self._bar.update(self._task, completed=done)

    def record(self, step: int, done: int, record: Mapping[str, float]) -> None:
        """Show a record of the log."""
        if not self._shown:
            return
        text = f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  {short(record['tokens_per_second'])} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, fields=text)
            return
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS or done >= self.total:
            self._last = now
            rate = (done - self.first) / max(now - self._started, 1e-9)
            left = (self.total - done) / rate if rate > 0 else 0.0
            share = f"{100 * min(1.0, done / self.total):.0f}%"
            _LOG.info("step %d (%s)  %s  %s left", step, share, text, duration(left))


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(number: float) -> str:
    """`950`, `12.3k`, `4.5M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def _terminal_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.fields[fields]}"))
    return Bar(*columns, console=console, refresh_per_second=2)
