import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.errors import CheckpointError
from fourm.train import checkpoint as checkpoint_file
from fourm.train import tensor_files
from fourm.train.checkpoint import CheckpointStore, recipe_differences
from fourm.train.distributed import World
from fourm.train.record import damage, read_record


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", World(), keep=2)


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {"model/weight": torch.full((3, 2), value), "optimizer/weight/step": torch.tensor(value)}


def load(store: CheckpointStore, path: Path, shape: tuple[int, ...] = (3, 2)) -> dict[str, Tensor]:
    return store.load(path, lambda saved: {"model/weight": torch.zeros(shape)})


def test_what_is_saved_comes_back(store: CheckpointStore) -> None:
    path = store.save(7, tensors(4.0), {"step": 7, "cursor": {"n": 3}})
    assert path.name == "step-00000007"
    assert store.latest() == path
    assert read_record(path)["cursor"] == {"n": 3}
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    loaded = store.load(path, lambda saved: targets if saved == set(targets) else {})
    torch.testing.assert_close(loaded, tensors(4.0), rtol=0, atol=0)


def test_the_oldest_are_deleted_after_the_new_one_is_there(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        store.save(step, tensors(), {"step": step})
    assert sorted(p.name for p in store.folder.iterdir()) == ["step-00000002", "step-00000003"]


def test_all_are_kept_on_request(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, World(), keep=None)
    for step in (1, 2, 3):
        store.save(step, tensors(), {"step": step})
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("stage", ["write", "record", "rename"])
def test_a_failed_save_leaves_nothing_and_names_the_remedy(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    good = store.save(1, tensors(), {"step": 1})

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if stage == "write":
        monkeypatch.setattr(tensor_files.dcp.FileSystemWriter, "write_data", fail)
    else:
        monkeypatch.setattr(checkpoint_file, {"record": "write_json", "rename": "publish_folder"}[stage], fail)
    with pytest.raises(CheckpointError, match=r"step-00000002: No space left on device.*Free disk space"):
        store.save(2, tensors(), {"step": 2})
    assert list(store.folder.iterdir()) == [good]
    assert store.latest() == good


@pytest.fixture
def small_files() -> Iterator[int]:
    """The kernel refuses files above 20 kB, as a full disk would in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_the_system_cuts_short_is_no_checkpoint(store: CheckpointStore, small_files: int) -> None:
    with pytest.raises(CheckpointError, match="step-00000001: "):
        store.save(1, {"model/weight": torch.zeros(small_files)}, {"step": 1})
    assert list(store.folder.iterdir()) == []
    assert store.latest() is None


def test_too_little_space_is_found_before_writing(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(CheckpointError, match=r"no space left"):
        store.save(1, tensors(), {"step": 1})
    assert list(store.folder.iterdir()) == []


def test_what_a_killed_run_left_is_neither_taken_nor_kept(store: CheckpointStore) -> None:
    good = store.save(1, tensors(), {"step": 1})
    shutil.copytree(good, store.folder / ".tmp-step-00000009")
    assert store.latest() == good
    path = store.save(2, tensors(), {"step": 2})
    assert sorted(store.folder.iterdir()) == [good, path]


def test_dcp_says_nothing_of_its_own(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    load(store, store.save(1, tensors(), {"step": 1}))
    assert caplog.messages == []


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_a_damaged_one_is_passed_over_and_removed_by_the_next_save(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture, file: str, harm: str
) -> None:
    good = store.save(1, tensors(), {"step": 1})
    bad = store.save(5, tensors(), {"step": 5})
    if harm == "cut":
        os.truncate(bad / file, 10)
    else:
        (bad / file).unlink()
    assert damage(bad) is not None
    assert store.latest() == good
    assert file in caplog.text
    assert sorted(store.folder.iterdir()) == [good, bad]
    path = store.save(3, tensors(), {"step": 3})
    assert sorted(store.folder.iterdir()) == [good, path]


def test_another_model_is_a_clear_error(store: CheckpointStore) -> None:
    path = store.save(1, tensors(), {"step": 1})
    with pytest.raises(CheckpointError, match=r"model/weight has shape \(3, 2\), this recipe needs \(4, 2\)"):
        load(store, path, (4, 2))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors .* model/other"):
        store.load(path, lambda saved: {"model/other": torch.zeros(1)})


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata"])
def test_content_that_cannot_be_read_names_the_folder(store: CheckpointStore, file: str) -> None:
    path = store.save(1, tensors(), {"step": 1})
    (path / file).write_bytes(b"x" * (path / file).stat().st_size)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*step-00000001: [^.]*\. Delete it"):
        load(store, path)


def test_another_format_version_is_refused(store: CheckpointStore) -> None:
    path = store.save(1, tensors(), {"step": 1})
    record = json.loads((path / "state.json").read_text()) | {"version": 99}
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="format 99"):
        read_record(path)


def test_a_run_does_not_begin_anew_beside_checkpoints_of_another_version(store: CheckpointStore) -> None:
    path = store.save(1, tensors(), {"step": 1})
    record = json.loads((path / "state.json").read_text()) | {"version": 99}
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"format 99.*the version that wrote it"):
        store.latest()


def test_a_run_does_not_begin_anew_where_no_checkpoint_is_whole(store: CheckpointStore) -> None:
    path = store.save(1, tensors(), {"step": 1})
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000001: __0_0.distcp is missing.*remove the folder to begin"):
        store.latest()


@pytest.mark.parametrize("content", ["[]", '{"version": 1, "files": 3}', "null"])
def test_a_record_that_is_json_but_no_record_counts_as_damaged(store: CheckpointStore, content: str) -> None:
    good, bad = (store.save(step, tensors(), {"step": step}) for step in (1, 2))
    (bad / "state.json").write_text(content)
    assert store.latest() == good


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = [store.save(step, tensors(), {"step": step}) for step in (1, 2)][-1]
    read = Path.read_text

    def forbidden(path: Path, *args: Any, **options: Any) -> str:
        if path.parent == newest:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be read.*Permission denied.*Mend the access"):
        store.latest()


def test_differences_of_recipes_are_listed_by_key() -> None:
    saved, current = {"model": {"dim": 4, "depth": 2}}, {"model": {"dim": 8, "depth": 2}, "train": {"seed": 0}}
    assert recipe_differences(saved, current, "recipe") == [
        "recipe.model.dim: 4 -> 8",
        "recipe.train: None -> {'seed': 0}",
    ]
