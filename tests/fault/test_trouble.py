"""Reads that stall, shards that are cut short, schedulers that want their machine back: nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.ranks import messages, run_ranks, start_ranks, wait
from tests.fault.test_kill_often import last_step, losses, until

pytestmark = pytest.mark.slow
CONFIG: dict[str, Any] = {"max_steps": 30, "save_every_steps": 8, "ema_decay": 0.9}


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def whole(tmp_path: Path, num_ranks: int) -> list[tuple[Any, ...]]:
    run_ranks(tmp_path / "whole", num_ranks, config=CONFIG, dropout=0.5)
    return losses(tmp_path / "whole")


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_shard_cut_short_ends_the_run_with_all_steps_so_far_saved(tmp_path: Path, num_ranks: int) -> None:
    output, bad = tmp_path / "run", num_ranks - 1
    ranks = start_ranks(output, num_ranks, config=CONFIG, dropout=0.5, break_at=14, bad_rank=bad)
    assert wait(ranks, 60) == ([1] if num_ranks == 1 else [75, 1]), messages(output)
    assert checkpoints(output) == ["step-00000008", "step-00000013"]
    assert (output / f"error-{bad}.txt").read_text() == "DataError: shard-00003.tar is cut short"
    if num_ranks == 2:
        told = (output / "error-0.txt").read_text()
        assert "another rank cannot go on after step 13: rank 1: DataError: shard-00003.tar is cut short" in told
    run_ranks(output, num_ranks, config=CONFIG, dropout=0.5)  # the shard is mended
    assert losses(output) == whole(tmp_path, num_ranks)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_stalled_read_ends_the_run_with_a_status_to_start_again_on(tmp_path: Path, num_ranks: int) -> None:
    output = tmp_path / "run"
    config = {**CONFIG, "timeout_minutes": 0.1}
    began = time.monotonic()
    ranks = start_ranks(output, num_ranks, config=config, dropout=0.5, stall_at=14)
    assert wait(ranks, 60) == [75] * num_ranks, messages(output)
    assert time.monotonic() - began < 45
    assert "this process has been waiting for data" in (output / "rank-0.err").read_text()
    run_ranks(output, num_ranks, config=CONFIG, dropout=0.5)
    assert losses(output) == whole(tmp_path, num_ranks)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_preempted_sharded_run_saves_and_ends_within_seconds(tmp_path: Path, number: int, status: int) -> None:
    config = {**CONFIG, "parallel": {"kind": "fsdp"}, "save_in_background": True}
    output = tmp_path / "run"
    ranks = start_ranks(output, 2, model="multimodal", config=config, sleep=0.05)
    until(lambda: last_step(output) >= 5, ranks[0], output)
    began = time.monotonic()
    for rank in ranks:
        os.kill(rank.pid or 0, number)
    assert wait(ranks, 60) == [status, status], messages(output)
    assert time.monotonic() - began < 20
    assert len(checkpoints(output)) == 1
    run_ranks(output, 2, model="multimodal", config=config)
    run_ranks(tmp_path / "whole", 2, model="multimodal", config=config)
    assert losses(output) == losses(tmp_path / "whole")
