"""The real `fourm pretrain` with its real loader, killed, and on two ranks: the losses of one undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.train.tracking import read_log
from tests.end_to_end.conftest import run

pytestmark = pytest.mark.slow
NUM_STEPS = 120
OPTIONS = [
    f"train.max_steps={NUM_STEPS}", "train.save_every_steps=25", "train.schedule.kind=cosine",
    "train.optimizer.clip_grad=1.0",
]  # fmt: skip
JITTER = ["data.train.datasets.rooms.jitter=0.2"]


RECIPES = {"tiny": JITTER, "aim": JITTER, "aimv2": JITTER, "lvm": [], "distilled": [], "clip": JITTER}
"""Recipe -> more of its options."""


def command(world: Path, recipe: str, output: Path, *more: str) -> list[str]:
    """The arguments of `fourm` for a tiny recipe with another output folder."""
    return ["pretrain", str(world / f"{recipe}.yaml"), f"output={output}", *OPTIONS, *RECIPES[recipe], *more]


def environment() -> dict[str, str]:
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {**{name: value for name, value in os.environ.items() if name not in ranks}, "OMP_NUM_THREADS": "1"}


def records(output: Path) -> list[dict[str, Any]]:
    """What was logged of every step, without how long it took."""
    kept = ("step", "loss", "grad_norm", "tokens")
    found = [r for r in read_log(output / "log.jsonl") if r["kind"] == "train"]
    return [{key: v for key, v in r.items() if key in kept or key.startswith("loss/")} for r in found]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_goes_on_bit_for_bit(world: Path, checkout: Path, tmp_path: Path, recipe: str) -> None:
    network = "model.towers.caption.encoder.model" if recipe == "clip" else "model"
    drawn = f"{network}.drop_path=0.2"  # the network's own randomness goes on too
    assert run(*command(world, recipe, tmp_path / "undisturbed", drawn)) == 0

    arguments = command(world, recipe, tmp_path / "killed", drawn, "data.num_workers=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "fourm", *arguments], cwd=checkout, env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(records(tmp_path / "killed")) < 40:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "completed.json").exists()
    assert len(records(tmp_path / "killed")) < NUM_STEPS
    assert run(*command(world, recipe, tmp_path / "killed", drawn)) == 0

    assert [r["step"] for r in records(tmp_path / "undisturbed")] == list(range(1, NUM_STEPS + 1))
    assert records(tmp_path / "killed") == records(tmp_path / "undisturbed")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_give_the_losses_of_one(world: Path, checkout: Path, tmp_path: Path, recipe: str) -> None:
    assert run(*command(world, recipe, tmp_path / "1", "train.max_steps=20")) == 0

    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fourm"]
    arguments = command(world, recipe, tmp_path / "2", "train.max_steps=20", "data.num_workers=1")
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *arguments],
        cwd=checkout, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    one, two = records(tmp_path / "1"), records(tmp_path / "2")
    assert len(one) == 20
    assert [r.keys() for r in two] == [r.keys() for r in one]
    values = [torch.tensor([v for r in found for v in r.values()], dtype=torch.float64) for found in (two, one)]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)
