"""What one sees of commands that run side by side."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from fourm.pipeline.status import Status, clock, last_line


@dataclass
class Lane:
    title: str
    log: Path | None = None
    started: float | None = None
    ended: float | None = None


def shown(lane: Lane, *, terminal: bool, line_seconds: float = 0.0) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80)
    with Status([lane], console, line_seconds) as status:
        status._last = -1e9
        status.update()
    return stream.getvalue()


def test_without_a_terminal_lines_tell_what_each_command_does(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\nstep 20  loss 0.5\n")

    text = shown(Lane("train depth", log, started=time.monotonic() - 75), terminal=False)

    assert "train depth: 1:15  step 20  loss 0.5" in text


def test_lines_come_only_now_and_then() -> None:
    stream = io.StringIO()
    with Status([Lane("train", started=time.monotonic())], Console(file=stream), line_seconds=30) as status:
        status.update()

    assert stream.getvalue() == ""


def test_a_terminal_shows_a_table_with_waiting_commands(tmp_path: Path) -> None:
    assert "waiting" in shown(Lane("train depth"), terminal=True)


def test_the_end_of_a_command_is_told_once() -> None:
    now = time.monotonic()

    assert shown(Lane("train", started=now - 61, ended=now), terminal=False).count("train: 1:01") == 1


def test_nothing_is_shown_of_a_command_that_writes_to_the_terminal_itself() -> None:
    stream = io.StringIO()
    with Status([], Console(file=stream), 0.0) as status:
        status.update()

    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", ""),
        (b"one\ntwo\n\n", "two"),
        (b"10%\r50%\r", "50%"),
        (b"\x1b[2Kplain \x1b[1;32mgreen\x1b[0m", "plain green"),
        (b"x" * 100 + b"\n" + b"y" * 10_000, "y" * 4096),
    ],
)
def test_last_line_of_a_log(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "log").write_bytes(content)

    assert last_line(tmp_path / "log") == line


def test_a_missing_log_has_no_last_line(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none") == last_line(None) == ""


def test_clock() -> None:
    assert [clock(s) for s in (0, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
