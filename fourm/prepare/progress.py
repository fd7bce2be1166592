"""The progress bar of commands that make shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    what: str, total: int | None, done: int = 0, *, visible: bool = True
) -> Iterator[Callable[[int], None]]:
    """A bar with numbers per second and time left on the terminal; yields what to call with the number just done.

    Args:
        what: plural, such as `rooms`.
        total: how many there are; None where that is not known.
        done: how many were there before.
        visible: show it.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """How many per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} {what}/s" if task.speed else "")

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda number: bar.advance(task, number)
