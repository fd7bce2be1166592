"""Labelling that is killed and started again gives the shards of a run that was never killed, byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.photographs import broken, save_photographs

pytestmark = pytest.mark.slow
NUM_KILLS = 10
SHARDS = 20


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    save_photographs(folder, 2 * SHARDS, width=500, height=400)
    broken(folder)
    return folder


def start(photos: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fourm", "prepare", "photos", str(photos), str(out), "--workers", str(workers)]
    options = ["shard_size=2", "batch_size=2", "image.size=200"]
    return subprocess.Popen(
        command + options,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(photos: Path, out: Path, workers: int) -> None:
    process = start(photos, out, workers)
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages


def content(out: Path) -> dict[str, bytes]:
    """All that is left of a run but for the times at which it was made."""
    files = [
        *out.rglob("*.tar"),
        *out.rglob("source.json"),
        *(out / ".prepare").rglob("*.json*"),
        out / "rejected.jsonl",
    ]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if not path.name.startswith(".")}


def num_finished(out: Path) -> int:
    return len(list((out / "crop_settings").glob("shard-*.tar")))


def wait_for_more(out: Path, than: int, process: subprocess.Popen[str]) -> bool:
    """Wait until more shards are there; whether the process still runs."""
    while process.poll() is None and num_finished(out) <= than:
        time.sleep(0.005)
    return process.poll() is None


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(photos, out, 1)
    assert num_finished(out) >= SHARDS
    return content(out)


def test_killed_ten_times(photos: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    rng = np.random.default_rng(0)
    for kill in range(NUM_KILLS):
        # The first dies before it has made anything, the others while or after they made one more shard.
        process = start(photos, tmp_path, (1, 2, 4)[kill % 3])
        running = wait_for_more(tmp_path, num_finished(tmp_path), process) if kill else True
        time.sleep(rng.uniform(0, 0.3 if kill == 0 else 0.05))
        assert running
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert num_finished(tmp_path) < len([name for name in undisturbed if name.startswith("crop_settings/shard")])
    finish(photos, tmp_path, 2)
    assert content(tmp_path) == undisturbed
    assert not list(tmp_path.rglob(".shard-*.tmp"))


def test_the_others_do_the_work_of_a_process_that_was_killed(
    photos: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    process = start(photos, tmp_path, 2)
    assert wait_for_more(tmp_path, 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victims = [
        int(child) for child in children if b"multiprocessing-fork" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    os.kill(victims[0], signal.SIGKILL)
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    assert content(tmp_path) == undisturbed


def test_a_full_disk_ends_with_a_remedy_and_the_rest_is_made_later(
    photos: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    # A limit on the size of files, which acts as a full disk does at the first shard that exceeds it.
    command = [
        sys.executable,
        "-m",
        "fourm",
        "prepare",
        "photos",
        str(photos),
        str(tmp_path),
        "shard_size=2",
        "batch_size=2",
    ]
    limited = [
        "bash",
        "-c",
        'trap "" XFSZ; ulimit -f 15; exec "$@"',
        "bash",
        *command,
        "image.size=200",
        "--workers",
        "1",
    ]
    stopped = subprocess.run(limited, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == 1
    assert "free disk space" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    finish(photos, tmp_path, 2)
    assert content(tmp_path) == undisturbed
