from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from fourm.data.shards import shard_is_complete
from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError
from fourm.prepare.rooms import render
from fourm.prepare.rooms import shard as shard_module
from fourm.prepare.rooms.classes import CLASSES, SOURCES
from fourm.prepare.rooms.shard import render_shard

SETTINGS = {"num": 5, "size": 16, "seed": 3, "workers": 1, "shard_size": 2, "progress": False}


def _render(out: Path, **changes: int) -> None:
    render(out, **(SETTINGS | changes))  # type: ignore[arg-type]


def _content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms")
    _render(out)
    return out


@pytest.fixture
def copy(rooms: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(rooms, tmp_path / "copy"))


def test_all_sources_hold_the_same_keys_in_the_same_order(rooms: Path) -> None:
    for shard, count in enumerate((2, 2, 1)):
        keys = set()
        for source, extension in SOURCES.items():
            with tarfile.open(rooms / source / f"shard-{shard:05d}.tar") as tar:
                names = tuple(tar.getnames())
            assert all(name.endswith(f".{extension}") for name in names)
            keys.add(tuple(name.split(".")[0] for name in names))
        assert len(keys) == 1
        assert keys == {tuple(f"{shard * 2 + k:06d}" for k in range(count))}


def test_the_manifest_says_what_is_there(rooms: Path) -> None:
    manifest = json.loads((rooms / "rooms.json").read_text())
    assert manifest["num"] == 5
    assert manifest["size"] == 16
    assert manifest["seed"] == 3
    assert manifest["classes"] == list(CLASSES)


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(rooms: Path, tmp_path: Path) -> None:
    _render(tmp_path / "two", workers=2)
    assert _content(tmp_path / "two") == _content(rooms)


def test_a_run_with_a_lost_shard_makes_only_that_shard_again(
    copy: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "depth" / "shard-00001.tar").unlink()
    made = []
    monkeypatch.setattr(
        shard_module, "render_shard", lambda task, on: (made.append(task.shard), render_shard(task, on))
    )
    _render(copy)
    assert made == [1]
    assert _content(copy) == _content(rooms)


def test_a_complete_folder_is_left_alone(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    _render(copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_a_larger_number_adds_rooms_and_keeps_the_others(copy: Path, rooms: Path, tmp_path: Path) -> None:
    _render(copy, num=7)
    _render(tmp_path / "fresh", num=7)
    assert _content(copy) == _content(tmp_path / "fresh")
    assert (copy / "rgb/shard-00001.tar").read_bytes() == (rooms / "rgb/shard-00001.tar").read_bytes()


def test_an_interrupted_run_leaves_nothing_that_looks_complete_and_can_be_continued(
    tmp_path: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fourm.prepare.rooms.encode as encode

    real = encode.sample

    def failing(seed: int, index: int, size: int) -> dict[str, bytes]:
        if index == 3:
            raise KeyboardInterrupt
        return real(seed, index, size)

    monkeypatch.setattr(encode, "sample", failing)
    with pytest.raises(KeyboardInterrupt):
        _render(tmp_path)
    assert shard_is_complete(tmp_path, SOURCES, 0)
    assert not shard_is_complete(tmp_path, SOURCES, 1)
    assert not (tmp_path / "rooms.json").exists()
    with pytest.raises(DataError, match="2 of 3 shards.*run the same command again"):
        open_source(str(tmp_path), SOURCES)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    monkeypatch.undo()
    _render(tmp_path)
    assert _content(tmp_path) == _content(rooms)


@pytest.mark.parametrize(("key", "value"), [("size", 32), ("seed", 4), ("shard_size", 3)])
def test_other_settings_are_not_mixed_into_a_folder(copy: Path, key: str, value: int) -> None:
    with pytest.raises(
        DataError, match=rf"copy already holds rooms with {key} .*asks for {key} {value}: choose another"
    ):
        _render(copy, **{key: value})


def test_fewer_rooms_than_there_are_is_refused(copy: Path) -> None:
    with pytest.raises(DataError, match=r"more rooms than the 2 asked for .*choose another folder"):
        _render(copy, num=2)


def test_foreign_shards_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb" / "shard-00000.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match="did not make"):
        _render(tmp_path)
    assert (tmp_path / "rgb" / "shard-00000.tar").read_bytes() == b"mine"


@pytest.mark.parametrize("key", ["num", "size", "workers", "shard_size"])
def test_numbers_out_of_range_are_named_as_the_option(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{key.replace('_', '-')} is 0"):
        _render(tmp_path, **{key: 0})
    assert not list(tmp_path.iterdir())


def test_the_smallest_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--size is 15; expected at least 16"):
        _render(tmp_path, size=15)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out is a file"):
        _render(tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot write"):
        _render(tmp_path / "out")


def test_a_full_disk_is_one_clear_error_and_leaves_no_part_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourm.data import shards

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        _render(tmp_path)
    assert not list(tmp_path.rglob("*.tar"))
