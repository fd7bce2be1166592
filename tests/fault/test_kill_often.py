"""A run that is killed again and again at random moments is the run that was never killed, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from fourm.train.tracking import read_log
from tests.distributed.ranks import ask_where, messages, run_ranks, start_ranks, wait

pytestmark = pytest.mark.slow
OPTIONS: dict[str, Any] = {"dropout": 0.5, "num_workers": 1}
CONFIG: dict[str, Any] = {"save_every_steps": 7, "ema_decay": 0.9, "log_every_steps": 1}
MOST_STEPS = 20  # behind the last save, before a run is killed


def losses(output: Path) -> list[tuple[Any, ...]]:
    """Every record: any difference in weights shows in these."""
    found = read_log(output / "log.jsonl")
    return [(r["step"], r["loss"], r.get("grad_norm"), r.get("weights")) for r in found]


def last_step(output: Path) -> int:
    return max((r["step"] for r in read_log(output / "log.jsonl")), default=0)


def until(condition: Callable[[], Any], process: BaseProcess, output: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), messages(output)
        if time.monotonic() > deadline:
            ask_where(process)
            raise AssertionError(messages(output))
        time.sleep(0.001)


def workers(process: BaseProcess) -> list[int]:
    """Its loader processes: children that run the same program, as `git`, which it asks for a hash, does not."""

    def program(pid: Any) -> bytes:
        path = Path(f"/proc/{pid}/cmdline")
        return path.read_bytes() if path.exists() else b""

    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if program(pid) == program(process.pid)]


def log_number(output: Path) -> int:
    """The number of the log's file, which is another one after each start."""
    path = output / "log.jsonl"
    return path.stat().st_ino if path.exists() else 0


def kill_somehow(process: BaseProcess, output: Path, log_before: int, chance: random.Random) -> str:
    """End the run during a step, during a save, or by the death of its loader process."""
    until(lambda: log_number(output) not in (0, log_before), process, output)
    saved = sorted((output / "checkpoints").glob("step-*"))
    goal = (int(saved[-1].name[5:]) if saved else 0) + chance.randint(1, MOST_STEPS)
    until(lambda: last_step(output) >= goal, process, output)
    how = chance.choice(["step", "step", "save", "worker"])
    if how == "worker":
        until(lambda: workers(process), process, output)
    if how == "save":
        until(lambda: list((output / "checkpoints").glob(".tmp-*")), process, output)
    else:
        time.sleep(chance.uniform(0, 0.01))
    victim = workers(process)[0] if how == "worker" else process.pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert wait([process], 60) == [1 if how == "worker" else -signal.SIGKILL], messages(output)
    return how


@pytest.mark.parametrize(("background", "kills"), [(False, 6), (True, 20)], ids=["foreground", "background"])
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, background: bool, kills: int) -> None:
    # Not so few steps that the run could end before the last kill.
    config = {
        **CONFIG,
        "max_steps": kills * (MOST_STEPS + CONFIG["save_every_steps"]),
        "save_in_background": background,
    }
    run_ranks(tmp_path / "whole", 1, config=config, **OPTIONS)
    output, chance, seen = tmp_path / "killed", random.Random(background), []
    for _ in range(kills):
        before = log_number(output)
        process = start_ranks(output, 1, config=config, sleep=0.01, slow_save=0.1, **OPTIONS)[0]
        seen.append(kill_somehow(process, output, before, chance))
    assert {"step", "save", "worker"} <= set(seen)
    assert not (output / "completed.json").exists()
    run_ranks(output, 1, config=config, **OPTIONS)
    assert losses(output) == losses(tmp_path / "whole")


def test_a_sharded_run_survives_the_death_of_either_rank(tmp_path: Path) -> None:
    config = {"max_steps": 60, "save_every_steps": 4, "parallel": {"kind": "fsdp"}, "save_in_background": True}
    run_ranks(tmp_path / "whole", 2, model="multimodal", config=config)
    output, chance = tmp_path / "killed", random.Random(0)
    for victim in (1, 0, 1):
        ranks = start_ranks(output, 2, model="multimodal", config=config, sleep=0.03)
        before = last_step(output)
        until(lambda start=before: last_step(output) > start + 4, ranks[0], output)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(ranks[victim].pid or 0, signal.SIGKILL)
        began = time.monotonic()
        statuses = wait(ranks, 60)
        assert time.monotonic() - began < 30
        assert statuses[victim] == -signal.SIGKILL
        assert statuses[1 - victim] == 75, messages(output)
        assert "left no word: it was killed" in (output / f"error-{1 - victim}.txt").read_text()
    run_ranks(output, 2, model="multimodal", config=config)
    assert losses(output) == losses(tmp_path / "whole")
