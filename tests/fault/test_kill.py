"""A run that is killed and started again is the run that was never killed, bit for bit."""

import os
import signal
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from fourm.train.tracking import read_log
from tests.distributed.ranks import messages, start_ranks, wait
from tests.unit.train import toy_job
from tests.unit.train.toy_tokenizer import KINDS

pytestmark = pytest.mark.slow
CONFIG = {"max_steps": 40, "save_every_steps": 7, "log_every_steps": 1, "ema_decay": 0.9}


def start(output: Path, **options: Any) -> BaseProcess:
    return start_ranks(output, 1, **{"config": CONFIG, "dropout": 0.5, **options})[0]


def finish(output: Path, model: str = "linear") -> None:
    """Go on to the end, in this process."""
    toy_job.run({"output": str(output), "config": CONFIG, "dropout": 0.5, "model": model})


def wait_for_step(output: Path, step: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 300
    while not any(record["step"] >= step for record in read_log(output / "log.jsonl")):
        assert process.is_alive(), messages(output)
        assert time.monotonic() < deadline
        time.sleep(0.005)


Losses = list[tuple[int, float, float]]


def losses(output: Path) -> Losses:
    """Step, loss and gradient norm of every record: any difference in weights shows in these.

    The last entry is about the averaged weights.
    """
    found = read_log(output / "log.jsonl")
    steps = [(r["step"], r["loss"], r["grad_norm"]) for r in found if r["kind"] == "train"]
    return [*steps, *((r["step"], r["loss"], r["weights"]) for r in found if r["kind"] == "eval")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Losses]:
    @cache
    def run(model: str = "linear") -> Losses:
        output = tmp_path_factory.mktemp(model)
        finish(output, model)
        assert [step for step, _, _ in losses(output)] == [*range(1, 41), 40]
        return losses(output)

    return run


@pytest.mark.parametrize(
    "model", ["linear", "transfer", "detection", "vqgan", "documents", "estimates", "contrastive", *KINDS]
)
def test_killed_twice_between_checkpoints(tmp_path: Path, undisturbed: Callable[[str], Losses], model: str) -> None:
    for step in (11, 24):
        process = start(tmp_path, sleep=0.02, model=model)
        wait_for_step(tmp_path, step, process)
        process.kill()
        assert wait([process]) == [-signal.SIGKILL], messages(tmp_path)
        assert not (tmp_path / "completed.json").exists()
    finish(tmp_path, model)
    assert losses(tmp_path) == undisturbed(model)


@pytest.mark.parametrize("stage", ["write", "publish", "retention"])
def test_killed_in_the_middle_of_a_save(tmp_path: Path, undisturbed: Any, stage: str) -> None:
    # keep_checkpoints is 2: the save of step 28 is the one that deletes step 14.
    process = start(tmp_path, die_in=stage, die_step=14 if stage == "retention" else 21)
    assert wait([process]) == [-signal.SIGKILL], messages(tmp_path)
    finish(tmp_path)
    assert losses(tmp_path) == undisturbed("linear")
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000035", "step-00000040"]


@pytest.mark.parametrize(
    ("number", "status", "model"), [(signal.SIGTERM, 143, "linear"), (signal.SIGINT, 130, "linear"), (15, 143, "divae")]
)
def test_asked_to_stop(tmp_path: Path, undisturbed: Any, number: int, status: int, model: str) -> None:
    # As from a terminal or a scheduler: the loader's process gets the signal too.
    process = start(tmp_path, sleep=0.02, num_workers=1, model=model)
    wait_for_step(tmp_path, 9, process)
    assert process.pid is not None
    os.killpg(process.pid, number)
    assert wait([process]) == [status], messages(tmp_path)
    assert "the same command goes on from there" in messages(tmp_path)
    assert "Traceback" not in messages(tmp_path)
    finish(tmp_path, model)
    assert losses(tmp_path) == undisturbed(model)
