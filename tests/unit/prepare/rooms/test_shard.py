from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourm import workers
from fourm.errors import DataError
from fourm.prepare.rooms.shard import RoomShard, render_shards

pytestmark = pytest.mark.slow


def _tasks(out: Path, shards: int = 4, rooms: int = 2) -> list[RoomShard]:
    return [RoomShard(out, k, k * rooms, (k + 1) * rooms, 16, 0) for k in range(shards)]


def _killing(monkeypatch: pytest.MonkeyPatch, which: slice) -> Callable[[int], None]:
    """What to call after each room, to kill some of the processes, counted as they are started."""
    started: list[Any] = []
    real = workers._Worker.__init__

    def start(worker: Any, *args: Any) -> None:
        real(worker, *args)
        started.append(worker.process)

    monkeypatch.setattr(workers._Worker, "__init__", start)

    def kill(number: int) -> None:
        for process in started[which]:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)

    return kill


def test_every_room_is_reported_once(tmp_path: Path) -> None:
    counts: list[int] = []
    render_shards(_tasks(tmp_path), 3, counts.append)
    assert sum(counts) == 8
    assert len(list((tmp_path / "rgb").glob("shard-*.tar"))) == 4


def test_an_error_of_a_worker_reaches_the_user(tmp_path: Path) -> None:
    (tmp_path / "rgb").write_text("a file where a folder is needed")
    with pytest.raises(DataError, match="rgb"):
        render_shards(_tasks(tmp_path), 2, lambda number: None)


def test_another_process_does_what_a_killed_one_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    kill = _killing(monkeypatch, slice(0, 1))
    render_shards(_tasks(tmp_path / "killed", 2, 20), 2, lambda number: (kill(number), counts.append(number)))
    render_shards(_tasks(tmp_path / "whole", 2, 20), 1, lambda number: None)
    for path in (tmp_path / "whole").rglob("*.tar"):
        assert (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert sum(counts) == 40


def test_processes_that_are_killed_again_are_an_error_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="ended unexpectedly twice .*fewer --workers"):
        render_shards(_tasks(tmp_path, rooms=50), 2, _killing(monkeypatch, slice(None)))


def test_workers_end_when_the_parent_is_killed_and_nothing_looks_complete(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fourm.prepare.rooms import render\n"
        "if __name__ == '__main__': render(Path(sys.argv[1]), num=4000, size=16, seed=0, workers=2, shard_size=2000)"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[4]
    environment = os.environ | {"PYTHONPATH": str(root)}
    job = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").rglob(".shard-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    job.kill()
    job.wait()
    while list((tmp_path / "out").rglob(".shard-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list((tmp_path / "out").rglob("*.tar"))
    assert not list((tmp_path / "out").rglob(".shard-*"))
    assert not (tmp_path / "out" / "rooms.json").exists()
