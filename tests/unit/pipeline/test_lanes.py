"""Processes of a stage: side by side, with their share of the cores, ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourm.errors import ConfigError
from fourm.pipeline import Stage, StageError, arguments, lanes, run_pipeline
from tests.unit.pipeline.conftest import python


def test_commands_run_with_this_interpreter() -> None:
    assert arguments("fourm doctor") == [sys.executable, "-m", "fourm", "doctor"]
    assert arguments("python -c 'a b'") == [sys.executable, "-c", "a b"]


def test_several_ranks_run_under_torchrun() -> None:
    words = arguments("fourm pretrain rooms", ranks=3)

    assert words[1:4] == ["-m", "fourm.pipeline.torchrun", "--standalone"]
    assert "--nproc-per-node=3" in words
    assert words[-4:] == ["-m", "fourm", "pretrain", "rooms"]


@pytest.mark.parametrize(
    ("override", "cores", "ranks"),
    [("", 8, 2), ("", 1, 1), ("train.batch_size=15", 8, 1), ("train.accumulation=16", 8, 1)],
)
def test_automatic_ranks_divide_the_batch(monkeypatch: Any, override: str, cores: int, ranks: int) -> None:
    monkeypatch.setattr(lanes, "_num_gpus", lambda: 0)
    monkeypatch.setattr(lanes, "num_cores", lambda: cores)

    assert lanes.num_ranks(Stage("train", [f"fourm pretrain rooms {override}"], ranks="auto")) == ranks


def test_automatic_ranks_are_one_per_gpu(monkeypatch: Any) -> None:
    monkeypatch.setattr(lanes, "_num_gpus", lambda: 4)

    stage = Stage("train", ["fourm train-tokenizer rooms_depth train.batch_size=32"], ranks="auto", max_ranks=8)

    assert lanes.num_ranks(stage) == 4


def test_a_fixed_number_of_ranks_is_kept() -> None:
    assert lanes.num_ranks(Stage("train", ["fourm pretrain rooms"], ranks="3")) == 3


def test_commands_of_a_stage_share_the_cores(pipeline: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lanes, "num_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    code = "import os; open('OUT/%d', 'w').write(os.environ['OMP_NUM_THREADS'])"

    run_pipeline(pipeline(one=([python(code % 1), python(code % 2)], ["1", "2"])))

    assert (tmp_path / "out" / "1").read_text() == "2"


def test_a_smaller_number_of_threads_of_the_user_is_kept(pipeline: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lanes, "num_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    code = "import os; open('OUT/1', 'w').write(os.environ['OMP_NUM_THREADS'])"

    run_pipeline(pipeline(one=([python(code)], ["1"])))

    assert (tmp_path / "out" / "1").read_text() == "3"


def test_what_commands_side_by_side_write_goes_to_logs_and_the_end_of_a_failed_one_is_shown(
    pipeline: Any, tmp_path: Path
) -> None:
    good, bad = python("print('all is well')"), python("import sys; print('line'); sys.exit('the reason')")

    with pytest.raises(StageError, match="(?s)exit status 1.*one-2.log.*the reason.*goes on from here"):
        run_pipeline(pipeline(one=([good, bad], [])))

    assert "all is well" in (tmp_path / "out" / "logs" / "one-1.log").read_text()


def test_the_first_failure_ends_the_other_commands(pipeline: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lanes, "num_cores", lambda: 2)
    waiting = python("import os, time; open('OUT/pid', 'w').write(str(os.getpid())); time.sleep(60)")
    tries = "[time.sleep(0.05) for _ in range(200) if not os.path.exists('OUT/pid')]"
    failing = python(f"import os, sys, time; {tries}; sys.exit(1)")
    began = time.monotonic()

    with pytest.raises(StageError):
        run_pipeline(pipeline(one=([waiting, failing], [])))

    assert time.monotonic() - began < 30
    assert not alive(int((tmp_path / "out" / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_commands_end_when_the_pipeline_is_stopped(tmp_path: Path, number: int) -> None:
    if number == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process that its parent was killed")
    pid = tmp_path / "pid"
    write = f"open('{pid}.new', 'w').write(str(os.getpid())); os.rename('{pid}.new', '{pid}')"
    code = f"import os, time; {write}; time.sleep(60)"
    stages = [{"name": "wait", "run": [python(code)]}]
    (tmp_path / "wait.yaml").write_text(yaml.safe_dump({"name": "wait", "output": str(tmp_path), "stages": stages}))
    running = subprocess.Popen(
        [sys.executable, "-m", "fourm", "run", str(tmp_path / "wait.yaml")], stderr=subprocess.PIPE
    )
    until(pid.exists)

    running.send_signal(number)
    running.communicate(timeout=30)

    assert running.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: not alive(int(pid.read_text())))


def until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this should have happened by now"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # An orphan may wait as a zombie for the system to collect it.
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_other_programs_are_refused() -> None:
    with pytest.raises(ConfigError, match="must begin with fourm or python"):
        arguments("rm -r x")
