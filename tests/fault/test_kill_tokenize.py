"""Tokens of runs that are killed, of several processes and of parts are those of one run, byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fourm.cli import cli
from fourm.data.encode import npy, png
from fourm.data.shards import ShardWriter
from fourm.rng import generator
from tests.unit.train.toy_tokenizer import tokenizer

pytestmark = pytest.mark.slow
NUM_KILLS = 10
SHARDS, SAMPLES, CROPS = 40, 12, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, and shards of noise with stored crops."""
    root = tmp_path_factory.mktemp("data")
    tokenizer("vqvae").eval().save(root / "tokenizer")
    for shard in range(SHARDS):
        with ShardWriter(root / "raw", shard, {"waves": "png", "crop_settings": "npy"}) as writer:
            for n in range(SAMPLES):
                rng = generator("kill", shard, n)
                crops = np.column_stack(
                    [rng.integers(0, 8, (CROPS, 2)), rng.integers(8, 24, (CROPS, 2)), rng.integers(0, 2, CROPS)]
                )
                image = rng.integers(0, 256, (32, 32), dtype=np.uint8)
                writer.write(f"{shard:03d}-{n:03d}", {"waves": png(image), "crop_settings": npy(crops)})
    return root


def start(
    data: Path, out: Path, workers: int, launcher: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "fourm", "tokenize", str(data / "tokenizer"), str(data / "raw")]
    options = ["--out", str(out), "--workers", str(workers), "--device", "cpu", "--batch-size", "8"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM") and "RANK" not in key}
    return subprocess.Popen(
        command + options, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**kept, **environment}
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages


def content(out: Path) -> dict[str, bytes]:
    files = [*out.rglob("*.tar"), *out.rglob("source.json"), *out.rglob("*.index.json")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if not path.name.startswith(".")}


def num_finished(out: Path) -> int:
    return len(list((out / "tok_waves").glob("shard-*.tar")))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(start(data, out, 1, OMP_NUM_THREADS="2"))
    assert num_finished(out) == SHARDS
    return content(out)


def test_killed_ten_times(data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    rng = np.random.default_rng(0)
    for kill in range(NUM_KILLS):
        process = start(data, tmp_path, (1, 2, 4)[kill % 3])
        before = num_finished(tmp_path)
        while kill and process.poll() is None and num_finished(tmp_path) <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1 if kill == 0 else 0.1))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 0 < num_finished(tmp_path) < SHARDS
    finish(start(data, tmp_path, 2))
    assert content(tmp_path) == undisturbed
    assert not list(tmp_path.rglob(".*.tmp"))


def test_ranks_share_the_work(data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    finish(start(data, tmp_path, 1, launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")))
    assert content(tmp_path) == undisturbed


def test_elements_of_a_slurm_array_share_the_work(data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_COUNT": "2"}
    elements = [start(data, tmp_path, 1, SLURM_ARRAY_TASK_ID=str(n), **array) for n in (1, 2)]
    for process in elements:
        finish(process)
    assert content(tmp_path) == undisturbed


def test_an_element_of_an_array_does_not_remove_what_others_made(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_COUNT": "2"}
    for name, value in {**array, "SLURM_ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    made = tmp_path / "tok_waves" / "shard-00000.tar"
    made.parent.mkdir()
    made.touch()
    options = ["--out", str(tmp_path), "--device", "cpu", "--overwrite"]
    done = CliRunner().invoke(cli, ["tokenize", str(data / "tokenizer"), str(data / "raw"), *options])
    assert "each would remove what the others have made" in str(done.exception)
    assert made.exists()
