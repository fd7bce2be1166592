"""What the commands of a stage are doing: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

LINE_SECONDS = 30.0
_TABLE_SECONDS = 0.5
_TAIL_BYTES = 4096
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shown(Protocol):
    """What is shown of a command."""

    log: Path | None
    started: float | None
    ended: float | None

    @property
    def title(self) -> str: ...


class Status:
    """Elapsed time and last log line of each command.

    Args:
        lanes: the commands; none: nothing is shown.
        console: rich console to write to.
        line_seconds: how often lines are written where there is no terminal.
    """

    def __init__(self, lanes: Sequence[Shown], console: Any, line_seconds: float = LINE_SECONDS) -> None:
        self.lanes, self.console, self.line_seconds = lanes, console, line_seconds
        self._last = time.monotonic()
        self._announced: set[int] = set()
        self._live: Any = None

    def __enter__(self) -> Status:
        if self.lanes and self.console.is_terminal:
            from rich.live import Live

            self._live = Live(self._table(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._announce_ends()

    def update(self) -> None:
        """Show the present state if the last one is old enough; cheap otherwise."""
        self._announce_ends()
        now = time.monotonic()
        if now - self._last < (_TABLE_SECONDS if self._live is not None else self.line_seconds):
            return
        self._last = now
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for lane in self.lanes:
            if lane.started is not None and lane.ended is None:
                self._print(f"  {lane.title}: {clock(now - lane.started)}  {last_line(lane.log)}")

    def _announce_ends(self) -> None:
        for number, lane in enumerate(self.lanes):
            if number not in self._announced and lane.started is not None and lane.ended is not None:
                self._announced.add(number)
                self._print(f"  {lane.title}: {clock(lane.ended - lane.started)}")

    def _print(self, line: str) -> None:
        self.console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        now = time.monotonic()
        for lane in self.lanes:
            if lane.ended is None:
                elapsed = "waiting" if lane.started is None else clock(now - lane.started)
                table.add_row(Text(f"  {lane.title}"), Text(elapsed), Text(last_line(lane.log), style="dim"))
        return table


def last_line(log: Path | None) -> str:
    """The last line of a log that says something; empty if there is none yet."""
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except OSError:
        return ""
    # Progress bars write their lines over one another.
    lines = [line.strip() for line in _ESCAPES.sub("", tail).replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
