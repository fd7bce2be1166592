from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourm.errors import DataError
from fourm.prepare.rooms import workers
from fourm.prepare.rooms.workers import ShardTask, render_shards

pytestmark = pytest.mark.slow


def _tasks(out: Path, shards: int = 4, rooms: int = 2) -> list[ShardTask]:
    return [ShardTask(out, k, k * rooms, (k + 1) * rooms, 16, 0) for k in range(shards)]


def test_every_room_is_reported_once(tmp_path: Path) -> None:
    count = 0

    def on_room() -> None:
        nonlocal count
        count += 1

    render_shards(_tasks(tmp_path), 3, on_room)
    assert count == 8
    assert len(list((tmp_path / "rgb").glob("shard-*.tar"))) == 4


def test_an_error_of_a_worker_reaches_the_user(tmp_path: Path) -> None:
    (tmp_path / "rgb").write_text("a file where a folder is needed")
    with pytest.raises(DataError, match="rgb"):
        render_shards(_tasks(tmp_path), 2, lambda: None)


def test_a_killed_worker_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = workers._start
    monkeypatch.setattr(workers, "_start", lambda context: started.append(real(context)) or started[-1])

    def kill() -> None:
        os.kill(started[0][0].pid or 0, signal.SIGKILL)

    with pytest.raises(DataError, match="ended unexpectedly"):
        render_shards(_tasks(tmp_path, rooms=50), 2, kill)


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
