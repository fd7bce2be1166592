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
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from fourm.data import remote
from fourm.errors import CheckpointError, ConfigError, StorageError
from fourm.train import checkpoint as checkpoint_file
from fourm.train import tensor_files
from fourm.train.checkpoint import CheckpointStore
from fourm.train.distributed import World
from fourm.train.record import read_record
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


class Trouble(MemoryFileSystem):
    """Storage that refuses some calls: name of the method -> errors to come, and to whom they come."""

    protocol = "trouble"
    cachable = False
    ahead: dict[str, list[Exception]] = {}  # noqa: RUF012
    where = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("trouble://", "memory://"))

    def _meet(self, method: str, path: Any) -> None:
        if Trouble.where in str(path) and Trouble.ahead.get(method):
            raise Trouble.ahead[method].pop()

    def info(self, path: str, **options: Any) -> Any:
        self._meet("info", path)
        return super().info(path, **options)

    def isfile(self, path: str) -> bool:
        return AbstractFileSystem.isfile(self, path)  # as object stores answer

    def cat_file(self, path: str, *args: Any, **options: Any) -> Any:
        self._meet("cat_file", path)
        return super().cat_file(path, *args, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._meet(f"open {mode[0]}", path)
        return super()._open(path, mode, **options)

    def rm(self, path: Any, **options: Any) -> None:
        self._meet("rm", path)
        super().rm(path, **options)


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckpointStore]:
    """A store with two checkpoints where nothing is wrong yet."""
    fsspec.register_implementation("trouble", Trouble, clobber=True)
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))
    Trouble.ahead, Trouble.where = {}, ""
    store = CheckpointStore(f"trouble://runs{tmp_path}", World(), keep=2)
    for step in (1, 2):
        store.save(step, tensors(float(step)), {"step": step})
    yield store
    Trouble.ahead = {}
    Trouble().store.clear()


def away(times: int) -> list[Exception]:
    return [ConnectionResetError("reset by peer") for _ in range(times)]


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
    write = tensor_files.dcp.save
    monkeypatch.setattr(tensor_files.dcp, "save", lambda *args, **options: (go.wait(10), write(*args, **options)))
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

    monkeypatch.setattr(tensor_files.dcp.FileSystemWriter, "write_data", full)
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


def test_checkpoints_are_not_deleted_where_storage_does_not_say_whether_they_are_complete(
    trouble: CheckpointStore,
) -> None:
    Trouble.ahead = {"info": away(99)}
    with pytest.raises(StorageError, match="look for .*tried 4 times.*reset by peer"):
        trouble.save(3, tensors(), {"step": 3})
    Trouble.ahead = {}
    assert names(trouble.folder.url) == ["step-00000001", "step-00000002"]
    assert read_record(trouble.latest())["step"] == 2


@pytest.mark.parametrize("method", ["info", "cat_file"])
def test_the_newest_checkpoint_is_not_passed_over_where_storage_does_not_answer(
    trouble: CheckpointStore, method: str
) -> None:
    Trouble.ahead, Trouble.where = {method: away(99)}, "step-00000002"
    with pytest.raises(StorageError) as raised:
        trouble.latest()
    assert raised.value.exit_status == 75
    Trouble.ahead = {method: away(2)}
    assert trouble.latest().name == "step-00000002"


def test_credentials_that_have_expired_are_not_damage(trouble: CheckpointStore) -> None:
    Trouble.ahead = {"cat_file": [PermissionError("ExpiredToken") for _ in range(99)]}
    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be read.*ExpiredToken.*Mend the access"):
        trouble.latest()


def test_a_save_that_storage_refuses_for_a_moment_is_tried_again(
    trouble: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    Trouble.ahead = {"open w": away(2)}
    path = trouble.save(3, tensors(3.0), {"step": 3})
    assert trouble.latest() == path
    torch.testing.assert_close(load(trouble, path)["model/weight"], tensors(3.0)["model/weight"])
    assert caplog.text.count("step-00000003: ConnectionResetError: reset by peer; trying again") == 2


def test_a_save_that_storage_refuses_leaves_the_earlier_ones(trouble: CheckpointStore) -> None:
    Trouble.ahead = {"open w": away(99)}
    with pytest.raises(StorageError, match=r"tried 4 times.*earlier ones are untouched"):
        trouble.save(3, tensors(), {"step": 3})
    Trouble.ahead = {}
    assert names(trouble.folder.url) == ["step-00000001", "step-00000002"]


def test_reading_is_tried_again_and_nobody_is_told_to_delete_what_is_only_out_of_reach(
    trouble: CheckpointStore,
) -> None:
    path = trouble.latest()
    Trouble.ahead = {"open r": away(3)}
    torch.testing.assert_close(load(trouble, path)["model/weight"], tensors(2.0)["model/weight"])
    Trouble.ahead = {"open r": away(99)}
    with pytest.raises(StorageError) as raised:
        load(trouble, path)
    assert "elete" not in str(raised.value)


def test_damaged_tensors_at_a_url_are_not_waited_for(trouble: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (60.0,))
    path = trouble.latest()
    for file in (".metadata", "__0_0.distcp"):
        size = (path / file).stat().st_size
        (path / file).write_text("x" * size)
        with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*step-00000002: .*Delete it"):
            load(trouble, path)


def test_a_new_checkpoint_counts_where_an_old_one_cannot_be_deleted(
    trouble: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    Trouble.ahead = {"rm": [PermissionError("objects are locked") for _ in range(99)]}
    Trouble.where = "step-00000001"
    trouble.save(3, tensors(), {"step": 3})
    assert trouble.latest().name == "step-00000003"
    assert "an older checkpoint beside it cannot be deleted: objects are locked" in caplog.text


def test_at_the_end_what_failed_in_the_background_is_written_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish = checkpoint_file.publish_folder
    failures = [OSError(errno.EIO, "Input/output error")]

    def once(temporary: Path, path: Path) -> None:
        if failures:
            raise failures.pop()
        publish(temporary, path)

    monkeypatch.setattr(checkpoint_file, "publish_folder", once)
    toy_trainer(tmp_path, toy_config(max_steps=4, save_every_steps=3, save_in_background=True)).fit()
    assert "step-00000003: Input/output error" in caplog.text
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert (tmp_path / "completed.json").exists()
