"""What a run tells of itself, by a clock that is set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourm.train import journal
from fourm.train.distributed import World
from fourm.train.journal import Journal
from fourm.train.meter import Meter
from fourm.train.progress import Progress
from fourm.train.state import RunState
from fourm.train.tracking import Tracker, read_log


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(journal, "time", clock)
    return clock


def journal_of(folder: Path, feed: Any) -> Journal:
    display = Progress("steps", 100, 0, shown=False)
    return Journal(feed, Meter(World(), batch_size=4), display, Tracker(folder, 0))


def test_tokens_per_second_are_those_of_training_alone(tmp_path: Path, clock: Clock) -> None:
    feed: Any = SimpleNamespace(waited=9.0)
    told = journal_of(tmp_path, feed)
    told.begin(RunState(step=10, tokens=1000))
    clock.now += 4
    feed.waited += 1
    with told.apart():
        clock.now += 50
    told.trained(RunState(step=12, tokens=1200), 12, {"loss": 0.5, "lr": 0.1})
    clock.now += 2
    told.trained(RunState(step=13, tokens=1300), 13, {"loss": 0.5, "lr": 0.1})

    first, second = read_log(tmp_path / "log.jsonl")
    assert (first["tokens_per_second"], first["data_wait"], first["samples_per_second"]) == (50.0, 0.25, 2.0)
    assert (second["tokens_per_second"], second["data_wait"], second["samples_per_second"]) == (50.0, 0.0, 2.0)
    assert (second["step"], second["tokens"], second["loss"], second["lr"]) == (13, 1300, 0.5, 0.1)


def test_a_run_that_goes_back_tells_what_comes_again_once(tmp_path: Path, clock: Clock) -> None:
    told = journal_of(tmp_path, SimpleNamespace(waited=0.0))
    told.begin(RunState())
    for step in (1, 2, 3):
        clock.now += 1
        told.trained(RunState(step=step, tokens=10 * step), step, {"loss": 1.0, "lr": 0.1})
    clock.now += 30
    told.rewind(RunState(step=1, tokens=10))
    clock.now += 1
    told.trained(RunState(step=2, tokens=20), 2, {"loss": 2.0, "lr": 0.1})

    found = read_log(tmp_path / "log.jsonl")
    assert [(r["step"], r["loss"], r["tokens_per_second"]) for r in found] == [(1, 1.0, 10.0), (2, 2.0, 10.0)]
