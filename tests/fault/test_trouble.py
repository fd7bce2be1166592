"""Reads that stall, shards that are cut short, schedulers that want their machine back: nothing is lost."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.data.shards import ShardWriter
from fourm.train.tracking import read_log
from tests.distributed.ranks import messages, run_ranks, start_ranks, wait
from tests.fault.test_kill_often import last_step, losses, until

pytestmark = pytest.mark.slow
CONFIG: dict[str, Any] = {"max_steps": 30, "save_every_steps": 8, "ema_decay": 0.9}


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def whole(tmp_path: Path, num_ranks: int) -> list[tuple[Any, ...]]:
    run_ranks(tmp_path / "whole", num_ranks, config=CONFIG, dropout=0.5)
    return losses(tmp_path / "whole")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 16 samples with tokens of two modalities."""
    rng = np.random.default_rng(0)
    for shard in range(3):
        with ShardWriter(tmp_path / "set", shard, {"depth": "npy", "codes": "npy"}) as writer:
            for n in range(16):
                writer.write(
                    f"{shard}-{n}", {"depth": npy(rng.integers(0, 50, 16)), "codes": npy(rng.integers(0, 6, 4))}
                )
    return tmp_path / "set"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def cut_while_running(shards: Path, output: Path, num_ranks: int, **options: Any) -> tuple[list[int | None], bytes]:
    """Cut a tar in the middle of a member once the run has taken some steps; the statuses, and what the tar was."""
    given = {"model": "shards", "config": CONFIG, "shards": str(shards), "sleep": 0.1, **options}
    ranks = start_ranks(output, num_ranks, **given)
    until(lambda: last_step(output) >= 6, ranks[0], output)
    tar = shards / "depth" / "shard-00001.tar"
    whole = tar.read_bytes()
    os.truncate(tar, 3 * 1024 + 700)
    return wait(ranks, 120), whole


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 0), (1, 1), (2, 0)])
def test_a_shard_cut_short_ends_the_run_with_all_steps_so_far_saved(
    tmp_path: Path, shards: Path, num_ranks: int, num_workers: int
) -> None:
    output = tmp_path / "run"
    statuses, tar = cut_while_running(shards, output, num_ranks, num_workers=num_workers)
    assert 1 in statuses, messages(output)
    assert set(statuses) <= {1, 75}, messages(output)
    told = "".join(path.read_text() for path in output.glob("error-*.txt"))
    assert "DataError: shard" in told
    assert "depth/shard-00001.tar became shorter while it was read (key '1-" in told
    saved = int(checkpoints(output)[-1].removeprefix("step-"))
    assert saved >= last_step(output) >= 6
    (shards / "depth" / "shard-00001.tar").write_bytes(tar)  # the shard is mended
    again = {"model": "shards", "config": CONFIG, "shards": str(shards)}
    run_ranks(output, num_ranks, **again)
    run_ranks(tmp_path / "whole", num_ranks, **again)
    assert losses(output) == losses(tmp_path / "whole")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_cut_shard_has_lost_is_left_out_where_that_is_asked_for(
    tmp_path: Path, shards: Path, num_workers: int
) -> None:
    output = tmp_path / "run"
    options = {"damaged": "skip", "num_workers": num_workers}
    statuses, tar = cut_while_running(shards, output, 1, **options)
    assert statuses == [0], messages(output)
    assert "left out, since data.damaged is skip: shard" in messages(output)
    (shards / "depth" / "shard-00001.tar").write_bytes(tar)
    run_ranks(tmp_path / "whole", 1, model="shards", config=CONFIG, shards=str(shards))
    found, expected = losses(output), losses(tmp_path / "whole")
    assert [record[0] for record in found] == [record[0] for record in expected], "all steps are taken"
    assert found[:4] == expected[:4], "those before the cut are as ever"
    assert found[-1] != expected[-1], "those after it saw other samples"


def test_a_run_does_not_begin_on_a_cut_shard(tmp_path: Path, shards: Path) -> None:
    os.truncate(shards / "codes" / "shard-00002.tar", 5000)
    output = tmp_path / "run"
    options = {"model": "shards", "config": CONFIG, "shards": str(shards), "damaged": "skip"}
    assert wait(start_ranks(output, 1, **options), 60) == [1]
    assert "codes/shard-00002.tar is truncated" in messages(output)


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


@pytest.mark.parametrize("on_spike", ["skip", "rollback"])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_with_spikes_that_is_killed_again_and_again_is_the_one_that_never_was(
    tmp_path: Path, on_spike: str, num_ranks: int
) -> None:
    config = {**CONFIG, "on_spike": on_spike, "spike": {"grad_ratio": 20.0, "loss_ratio": 50.0, "window": 6}}
    options = {"config": {**config, "max_steps": 40}, "dropout": 0.5, "spikes": [10, 18, 27]}
    run_ranks(tmp_path / "whole", num_ranks, **options)
    spikes = [r["step"] for r in read_log(tmp_path / "whole" / "log.jsonl") if r.get("skipped")]
    assert spikes == ([10, 18, 27] if on_spike == "skip" else [])
    back = [message for message in messages(tmp_path / "whole").splitlines() if "Back to step" in message]
    assert len(back) == (0 if on_spike == "skip" else 3 * num_ranks)
    output, chance = tmp_path / "killed", random.Random(num_ranks)
    for goal in (6, 12, 20, 30):
        ranks = start_ranks(output, num_ranks, sleep=0.03, **options)
        until(lambda goal=goal: last_step(output) >= goal, ranks[0], output)
        time.sleep(chance.uniform(0, 0.1))
        for rank in ranks:
            os.kill(rank.pid or 0, signal.SIGKILL)
        wait(ranks, 60)
    assert not (output / "completed.json").exists()
    run_ranks(output, num_ranks, **options)
    assert losses(output) == losses(tmp_path / "whole")
