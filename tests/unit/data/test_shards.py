from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourm.data import shards
from fourm.data.index import keys_digest
from fourm.data.shards import (
    ShardWriter,
    check_tokenizer_hash,
    read_source_facts,
    shard_is_complete,
    write_source_facts,
)
from fourm.errors import DataError

SOURCES = {"rgb": "png", "caption": "json"}


def write(root: Path, count: int = 3) -> None:
    with ShardWriter(root, 0, SOURCES) as writer:
        for n in range(count):
            writer.write(f"{n:06d}", {"rgb": b"image" * n, "caption": b"text"})


def names(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_a_shard_is_one_plain_tar_and_one_index_per_source(tmp_path: Path) -> None:
    write(tmp_path)
    assert names(tmp_path) == [
        f"{source}/shard-00000.{kind}" for source in ("caption", "rgb") for kind in ("index.json", "tar")
    ]
    with tarfile.open(tmp_path / "rgb" / "shard-00000.tar") as tar:
        assert tar.getnames() == ["000000.png", "000001.png", "000002.png"]
        member = tar.extractfile("000002.png")
        assert member is not None
        assert member.read() == b"imageimage"


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, 0, SOURCES) as writer:
            writer.write("000000", {"rgb": b"1", "caption": b"2"})
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        interrupted()
    assert names(tmp_path) == []


def test_a_full_disk_ends_with_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device.*free disk space"):
        write(tmp_path)
    assert names(tmp_path) == []


def test_a_shard_is_complete_only_with_all_sources_indexes_and_samples(tmp_path: Path) -> None:
    assert not shard_is_complete(tmp_path, SOURCES, 0)
    write(tmp_path)
    assert shard_is_complete(tmp_path, SOURCES, 0)
    assert shard_is_complete(tmp_path, SOURCES, 0, keys_digest(["000000", "000001", "000002"]))
    assert not shard_is_complete(tmp_path, SOURCES, 0, keys_digest(["000000", "000001"]))
    assert not shard_is_complete(tmp_path, SOURCES, 0, keys_digest(["000000", "000001", "000003"]))
    assert not shard_is_complete(tmp_path, [*SOURCES, "depth"], 0)
    (tmp_path / "rgb" / "shard-00000.index.json").unlink()
    assert not shard_is_complete(tmp_path, SOURCES, 0)


def test_members_of_another_extension_are_not_complete(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, {"rgb": "jpg"}) as writer:
        writer.write("0", {"rgb": b""})
    assert shard_is_complete(tmp_path, {"rgb": "jpg"}, 0)
    assert not shard_is_complete(tmp_path, {"rgb": "png"}, 0)


def test_a_cut_tar_is_not_complete(tmp_path: Path) -> None:
    write(tmp_path)
    tar = tmp_path / "rgb" / "shard-00000.tar"
    tar.write_bytes(tar.read_bytes()[:1024])
    assert not shard_is_complete(tmp_path, SOURCES, 0)


def test_sources_with_other_keys_are_not_complete(tmp_path: Path) -> None:
    write(tmp_path)
    with ShardWriter(tmp_path, 0, {"depth": "png"}) as writer:
        for key in ("000000", "000001", "other"):
            writer.write(key, {"depth": b""})
    assert not shard_is_complete(tmp_path, ["rgb", "depth"], 0)


def test_a_crash_between_tars_and_indexes_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, count=2)

    def crash(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "publish", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, count=3)
    assert not shard_is_complete(tmp_path, SOURCES, 0)


@pytest.mark.parametrize("key", ["", "a.b", "/a", "../a", "a/../../b"])
def test_keys_without_a_clear_extension_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="dots"), ShardWriter(tmp_path, 0, SOURCES) as writer:
        writer.write(key, {"rgb": b"", "caption": b""})


def test_a_sample_without_one_of_the_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="caption"), ShardWriter(tmp_path, 0, SOURCES) as writer:
        writer.write("000000", {"rgb": b""})


def test_facts_come_back_as_written(tmp_path: Path) -> None:
    assert read_source_facts(tmp_path, "tok_rgb") == {}
    write_source_facts(tmp_path, "tok_rgb", {"tokenizer_hash": "abc", "vocab_size": 512})
    assert read_source_facts(tmp_path, "tok_rgb") == {"tokenizer_hash": "abc", "vocab_size": 512}


def test_damaged_facts_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "tok_rgb").mkdir()
    (tmp_path / "tok_rgb" / "source.json").write_text("{")
    with pytest.raises(DataError, match=r"tok_rgb/source\.json"):
        read_source_facts(tmp_path, "tok_rgb")


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path, reports: Callable[..., Any]) -> None:
    write_source_facts(tmp_path, "tok_rgb", {"tokenizer_hash": "aaa"})
    check_tokenizer_hash(tmp_path, "tok_rgb", "aaa")
    reports(
        DataError, lambda: check_tokenizer_hash(tmp_path, "tok_rgb", "bbb"), "tok_rgb", "aaa", "bbb", "fourm tokenize"
    )


def test_tokens_of_an_unknown_tokenizer_are_refused_with_what_fourm_tokenize_accepts(tmp_path: Path) -> None:
    # --overwrite does not replace what another program made.
    with pytest.raises(
        DataError, match=r"no tokenizer_hash.*--source NAME.*_name_map.*or remove .*tok_depth"
    ) as caught:
        check_tokenizer_hash(tmp_path, "tok_depth", "bbb")
    assert "--overwrite" not in str(caught.value)
