"""Files of one's own become shards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fourm.data.shards import ShardWriter, read_source_facts
from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError
from fourm.prepare import pack as packing
from fourm.prepare.pack import pack


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for n in range(10):
        for source, extension in (("rgb", "png"), ("caption", "txt")):
            path = tmp_path / "files" / source / f"class{n % 2}" / f"{n}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{source} {n}".encode())
    return tmp_path / "files"


def samples(root: Path) -> dict[str, dict[str, bytes]]:
    source = open_source(str(root), ["rgb", "caption"])
    return {source.key(n): source.read(n) for n in range(len(source))}


def test_shards_hold_the_same_samples(files: Path, tmp_path: Path) -> None:
    assert pack(files, tmp_path / "out", shard_size=4) == 10

    assert samples(tmp_path / "out") == samples(files)
    assert len(list((tmp_path / "out" / "rgb").glob("*.tar"))) == 3


def test_every_shard_mixes_the_classes(files: Path, tmp_path: Path) -> None:
    pack(files, tmp_path / "out", shard_size=5)

    assert list(samples(tmp_path / "out")) != list(samples(files))


def test_the_same_seed_gives_the_same_bytes(files: Path, tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(files, tmp_path / out, seed=seed)

    tars = {out: (tmp_path / out / "rgb" / "shard-00000.tar").read_bytes() for out in "abc"}
    assert tars["a"] == tars["b"] != tars["c"]


def test_complete_shards_are_kept(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(files, out, shard_size=5)
    first, second = (out / "rgb" / f"shard-0000{n}.tar" for n in range(2))
    before = first.stat().st_mtime_ns
    second.unlink()

    pack(files, out, shard_size=5)

    assert first.stat().st_mtime_ns == before
    assert second.is_file()


def test_after_files_were_added_every_sample_is_there_once(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(files, out, shard_size=4)
    for source, extension in (("rgb", "png"), ("caption", "txt")):
        (files / source / "class0" / f"new.{extension}").write_bytes(b"new")

    pack(files, out, shard_size=4)

    assert samples(out) == samples(files)


def test_a_file_that_was_changed_is_packed_again(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(files, out, shard_size=5)
    before = {path: path.stat().st_mtime_ns for path in out.glob("rgb/*.tar")}
    (files / "caption" / "class0" / "2.txt").write_bytes(b"CAPTION 2")

    pack(files, out, shard_size=5)

    assert samples(out) == samples(files)
    kept = [path for path, written in before.items() if path.stat().st_mtime_ns == written]
    assert len(kept) == 1


@pytest.mark.parametrize("length", [9, 12])
def test_a_file_that_was_exchanged_for_an_older_one_is_packed_again(files: Path, tmp_path: Path, length: int) -> None:
    older, used = tmp_path / "2.txt", files / "caption" / "class0" / "2.txt"
    older.write_bytes(b"x" * length)
    os.utime(older, (0, 0))
    pack(files, tmp_path / "out")
    older.replace(used)

    pack(files, tmp_path / "out")

    assert samples(tmp_path / "out") == samples(files)


def test_a_link_that_was_turned_is_packed_again(files: Path, tmp_path: Path) -> None:
    first, second, link = tmp_path / "1.txt", tmp_path / "2.txt", files / "caption" / "class0" / "2.txt"
    first.write_bytes(b"first")
    second.write_bytes(b"other")
    link.unlink()
    link.symlink_to(first)
    pack(files, tmp_path / "out")
    link.unlink()
    link.symlink_to(second)

    pack(files, tmp_path / "out")

    assert samples(tmp_path / "out") == samples(files)


def test_a_file_that_changes_while_its_shard_is_written_is_packed_again(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ShardWriter.write

    def edit_after(self: ShardWriter, key: str, sample: dict[str, bytes]) -> None:
        write(self, key, sample)
        time.sleep(0.02)
        (files / "caption" / f"{key}.txt").write_bytes(sample["caption"].upper())

    monkeypatch.setattr(ShardWriter, "write", edit_after)
    pack(files, tmp_path / "out")
    monkeypatch.undo()

    pack(files, tmp_path / "out")

    assert samples(tmp_path / "out") == samples(files)


def test_what_an_interruption_leaves_is_not_taken_for_the_whole(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(root: Path, shard: int, extensions: dict[str, str]) -> ShardWriter:
        if shard == 1:
            raise KeyboardInterrupt
        return ShardWriter(root, shard, extensions)

    monkeypatch.setattr(packing, "ShardWriter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(files, tmp_path / "out", shard_size=4)
    with pytest.raises(DataError, match="2 of 3 shards.*run the same command again"):
        samples(tmp_path / "out")


def test_the_facts_of_files_are_those_of_their_shards(files: Path, tmp_path: Path) -> None:
    (files / "rgb" / "source.json").write_text('{"tokenizer_hash": "abc"}')
    pack(files, tmp_path / "out", shard_size=4)
    assert read_source_facts(tmp_path / "out", "rgb") == {"tokenizer_hash": "abc", "num_shards": 3}


def test_shards_that_would_be_left_over_are_an_error(files: Path, tmp_path: Path) -> None:
    pack(files, tmp_path / "out", shard_size=4)

    with pytest.raises(DataError, match="holds more shards than 10 samples in shards of 5 make"):
        pack(files, tmp_path / "out", shard_size=5)


def test_chosen_sources_only(files: Path, tmp_path: Path) -> None:
    pack(files, tmp_path / "out", sources=["rgb"])

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rgb"]


def test_what_cannot_be_packed_is_named(files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="choose another one"):
        pack(files, files)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one per modality"):
        pack(tmp_path / "empty", tmp_path / "out")
    (files / "rgb" / "class0" / "0.png").rename(files / "rgb" / "class0" / "0.jpg")
    with pytest.raises(DataError, match=r"rgb/class0/0\.jpg, rgb/class0/2\.png"):
        pack(files, tmp_path / "out")
    (files / "rgb" / "class0" / "0.jpg").unlink()
    with pytest.raises(DataError, match="'caption' has 'class0/0'"):
        pack(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
