import json
from pathlib import Path

import pytest

from fourm.errors import CheckpointError
from fourm.train.publish import remove_leftovers, write_folder, write_json


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write(folder: Path) -> None:
        assert not target.exists()
        (folder / "config.json").write_text("{}")

    write_folder(target, write)
    assert [p.name for p in target.iterdir()] == ["config.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", lambda folder: (folder / "old").touch())
    write_folder(tmp_path / "model", lambda folder: (folder / "new").touch())
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]


def test_a_write_that_fails_is_an_error_of_ours_and_keeps_the_old_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", lambda folder: (folder / "old").touch())

    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        write_folder(tmp_path / "model", fail)
    assert (tmp_path / "model" / "old").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), CheckpointError("no"), RuntimeError("bug")])
def test_whatever_goes_wrong_leaves_nothing_half_written(tmp_path: Path, error: Exception) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    with pytest.raises(CheckpointError if isinstance(error, OSError) else type(error)):
        write_folder(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


def test_json_is_published_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"path": tmp_path})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"path": str(tmp_path)}
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_leftovers_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-1").mkdir()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / "step-2").mkdir()
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-2"]
