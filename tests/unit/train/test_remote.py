"""Checkpoints at a URL, and checkpoints written while training goes on."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from fourm.errors import CheckpointError, ConfigError
from fourm.train import checkpoint as checkpoint_file
from fourm.train.checkpoint import CheckpointStore, read_record
from fourm.train.distributed import World
from fourm.train.remote import RemotePath
from fourm.train.tracking import read_log
from tests.unit.train.test_checkpoint import load, tensors
from tests.unit.train.toy import ToyModel, toy_config, toy_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield f"memory://runs{tmp_path}" if request.param == "memory" else f"file://{tmp_path}/runs"
    memory = fsspec.filesystem("memory")
    memory.store.clear()


def names(url: str) -> list[str]:
    return [path.name for path in RemotePath(url).iterdir()]


def test_what_is_saved_at_a_url_comes_back_and_the_oldest_go(url: str) -> None:
    store = CheckpointStore(url, World(), keep=2)
    for step in (1, 2, 3):
        path = store.save(step, tensors(float(step)), {"step": step})
    assert names(url) == ["step-00000002", "step-00000003"]
    assert store.latest() == path
    assert read_record(path)["step"] == 3
    torch.testing.assert_close(load(store, path)["model/weight"], tensors(3.0)["model/weight"])


def test_what_has_no_record_is_no_checkpoint_and_the_next_save_removes_it(url: str) -> None:
    store = CheckpointStore(url, World())
    good, half = store.save(1, tensors(), {"step": 1}), store.save(2, tensors(), {"step": 2})
    (half / "state.json").remove()
    assert store.latest() == good
    store.save(3, tensors(), {"step": 3})
    assert names(url) == ["step-00000001", "step-00000003"]


def test_a_file_cut_short_at_a_url_is_passed_over(url: str) -> None:
    store = CheckpointStore(url, World())
    good, bad = store.save(1, tensors(), {"step": 1}), store.save(2, tensors(), {"step": 2})
    (bad / "__0_0.distcp").write_text("short")
    assert store.latest() == good


def test_an_unknown_protocol_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="protocol 'memry' is not known"):
        toy_trainer(tmp_path, toy_config(checkpoints="memry://runs")).fit()


@pytest.mark.parametrize("background", [False, True])
def test_a_run_goes_on_from_a_url_bit_for_bit(tmp_path: Path, url: str, background: bool) -> None:
    def losses(output: Path) -> list[float]:
        return [r["loss"] for r in read_log(output / "log.jsonl") if r["kind"] == "train"]

    def run(name: str, steps: int, **options: Any) -> None:
        from fourm.train.configs import ScheduleConfig

        values = {"ema_decay": 0.9, "save_every_steps": 3, "schedule": ScheduleConfig(kind="constant"), **options}
        toy_trainer(tmp_path / name, toy_config(max_steps=steps, **values), model=ToyModel(dropout=0.5)).fit()

    run("whole", 10)
    run("parts", 5, checkpoints=url, save_in_background=background)
    run("parts", 10, checkpoints=url, save_in_background=background)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert names(url) == ["step-00000009", "step-00000010"]


def test_in_the_background_what_is_written_is_the_state_at_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, go = CheckpointStore(tmp_path, World(), background=True), threading.Event()
    write = checkpoint_file.dcp.save
    monkeypatch.setattr(checkpoint_file.dcp, "save", lambda *args, **options: (go.wait(10), write(*args, **options)))
    state, record = tensors(1.0), {"losses": [1.0]}
    path = store.save(1, state, record)
    assert store.latest() is None  # the training goes on; nothing is published
    state["model/weight"].fill_(2.0)
    record["losses"].append(2.0)
    go.set()
    store.finish()
    assert read_record(path)["losses"] == [1.0]
    torch.testing.assert_close(load(store, path)["model/weight"], tensors(1.0)["model/weight"])


def test_a_failure_in_the_background_shows_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, World(), background=True)
    good = store.save(1, tensors(), {"step": 1})
    store.finish()

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_file.dcp.FileSystemWriter, "write_data", full)
    store.save(2, tensors(), {"step": 2})
    with pytest.raises(CheckpointError, match=r"step-00000002: No space left on device"):
        store.save(3, tensors(), {"step": 3})
    assert list(tmp_path.iterdir()) == [good]


def test_a_disk_that_is_full_for_a_while_costs_nothing_where_training_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish = checkpoint_file.publish_folder

    def full_at_6(temporary: Path, path: Path) -> None:
        if path.name == "step-00000006":
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(temporary, path)

    monkeypatch.setattr(checkpoint_file, "publish_folder", full_at_6)
    config = toy_config(max_steps=12, save_every_steps=3, on_failed_save="continue")
    toy_trainer(tmp_path, config).fit()
    assert "step-00000006: No space left on device" in caplog.text
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]


def test_the_last_checkpoint_must_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(temporary: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "publish_folder", full)
    with pytest.raises(CheckpointError, match="step-00000004: No space left"):
        toy_trainer(tmp_path, toy_config(max_steps=4, on_failed_save="continue")).fit()
    assert not (tmp_path / "completed.json").exists()
