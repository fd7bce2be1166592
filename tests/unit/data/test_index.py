from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from fourm.data import index as indexing
from fourm.data.index import index_path, keys_digest, load_index, read_header, scan_tar
from fourm.data.shards import ShardWriter, shard_path
from fourm.errors import DataError


def foreign_tar(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_scanning_finds_what_the_writer_wrote_but_for_checksums(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    written, scanned = json.loads(index_path(tar).read_bytes()), json.loads(scan_tar(tar).to_json())
    assert scanned == written | {"checksums": [], "content_digest": ""}
    assert scan_tar(tar).describes_same(load_index(tar))


def test_the_writer_notes_the_checksum_of_every_file(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    index, content = load_index(tar), tar.read_bytes()
    files = [content[start : start + size] for start, size in zip(index.offsets, index.sizes, strict=True)]
    assert index.checksums.tolist() == [zlib.crc32(file) for file in files]


def test_checksums_are_the_last_list_of_an_index(shards: Path) -> None:
    lines = index_path(shard_path(shards, "rgb", 0)).read_text().splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ['"keys"', '"offsets"', '"sizes"', '"checksums"']


def test_an_index_of_the_version_without_checksums_is_built_again(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    facts = json.loads(index_path(tar).read_bytes())
    del facts["checksums"]
    index_path(tar).write_text(json.dumps(facts | {"version": 1}))
    assert read_header(tar).num_samples == 5
    assert json.loads(index_path(tar).read_bytes())["version"] == indexing.VERSION
    assert load_index(tar).checksums.size == 0


def test_an_index_with_fewer_checksums_than_files_is_built_again(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    facts = json.loads(index_path(tar).read_bytes())
    index_path(tar).write_text(json.dumps(facts | {"checksums": facts["checksums"][:2]}))
    assert load_index(tar).checksums.size == 0


@pytest.mark.parametrize("keys", ["", "ab"], ids=["empty", "capitals"])
def test_checksums_are_kept_whatever_the_extension_is_called(tmp_path: Path, keys: str) -> None:
    with ShardWriter(tmp_path, 0, {"rgb": "JPG"}) as writer:
        for key in keys:
            writer.write(key, {"rgb": key.encode()})
    tar = shard_path(tmp_path, "rgb", 0)
    content = index_path(tar).read_bytes()
    os.utime(index_path(tar), ns=(0, 0))
    assert load_index(tar).checksums.tolist() == [zlib.crc32(key.encode()) for key in keys]
    assert index_path(tar).read_bytes() == content


def test_the_checksums_of_another_tar_are_not_kept(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    foreign_tar(tar, {"000000.png": b"another file"})
    os.utime(tar, ns=(0, index_path(tar).stat().st_mtime_ns + 1))
    assert load_index(tar).checksums.size == 0


def test_offsets_and_sizes_cut_out_the_files(tmp_path: Path) -> None:
    members = {"b.txt": b"second", "a.txt": b"x" * 700, "c.txt": b""}
    tar = foreign_tar(tmp_path / "t.tar", members)
    index = scan_tar(tar)
    content = tar.read_bytes()
    found = {k: content[o : o + s] for k, o, s in zip(index.keys, index.offsets, index.sizes, strict=True)}
    assert found == {"b": b"second", "a": b"x" * 700, "c": b""}
    assert index.header.extension == "txt"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_folders_of_other_writers_are_read(tmp_path: Path, form: int) -> None:
    name = "x" * 150
    tar = foreign_tar(tmp_path / "t.tar", {f"./{name}.seg.PNG": b"1", "part/7.seg.PNG": b"2"}, format=form)
    index = scan_tar(tar)
    assert index.keys == [name, "part/7"]
    assert index.header.extension == "seg.png"


def test_a_missing_index_is_built_and_kept(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    index_path(tar).unlink()
    assert load_index(tar).header.num_samples == 5
    assert read_header(tar).num_samples == 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":99}\n', b"\xff\xfe"])
def test_a_damaged_index_is_built_again(shards: Path, content: bytes) -> None:
    tar = shard_path(shards, "rgb", 0)
    index_path(tar).write_bytes(content)
    assert read_header(tar).num_samples == 5


def test_an_index_of_another_tar_is_built_again(tmp_path: Path) -> None:
    tar = foreign_tar(tmp_path / "t.tar", {"a.txt": b"1"})
    assert load_index(tar).keys == ["a"]
    foreign_tar(tar, {f"{n}.txt": bytes(9000) for n in range(3)})
    assert read_header(tar).num_samples == 3
    assert load_index(tar).keys == ["0", "1", "2"]


def test_a_tar_rewritten_in_the_same_size_is_scanned_again(tmp_path: Path) -> None:
    # Tars are padded to 10 kB, so their sizes say little.
    tar = foreign_tar(tmp_path / "t.tar", {"a.txt": b"1", "b.txt": b"2"})
    assert load_index(tar).keys == ["a", "b"]
    foreign_tar(tar, {"b.txt": b"2", "c.txt": b"3"})
    os.utime(tar, ns=(0, index_path(tar).stat().st_mtime_ns + 1))
    assert read_header(tar).keys_digest == keys_digest(["b", "c"])
    assert load_index(tar).keys == ["b", "c"]


def test_a_copy_whose_tar_came_last_is_scanned_once(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    content = index_path(tar).read_bytes()
    os.utime(index_path(tar), ns=(0, 0))
    read_header(tar)
    assert index_path(tar).read_bytes() == content
    assert index_path(tar).stat().st_mtime_ns > tar.stat().st_mtime_ns


def test_an_index_on_one_line_is_read_too(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    facts = json.loads(index_path(tar).read_bytes())
    minimal = {key: facts[key] for key in ("version", "keys", "extension", "offsets", "sizes", "tar_bytes")}
    index_path(tar).write_text(json.dumps(minimal))
    assert read_header(tar).num_samples == 5


def test_only_the_first_line_of_an_index_is_needed_for_its_header(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "load_index", lambda tar: pytest.fail("the whole index was read"))
    assert read_header(shard_path(shards, "rgb", 0)).num_samples == 5


def test_a_read_only_folder_does_not_stop_reading(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = shard_path(shards, "rgb", 0)
    index_path(tar).unlink()
    opened = Path.open

    def refuse(self: Path, mode: str = "r", **options: Any) -> Any:
        if "w" in mode:
            raise PermissionError(13, "Permission denied")
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert load_index(tar).header.num_samples == 5


@pytest.mark.parametrize("kept", [100, 512, 700, 4096])
def test_a_truncated_tar_names_itself_and_the_remedy(shards: Path, kept: int) -> None:
    tar = shard_path(shards, "rgb", 0)
    os.truncate(tar, kept)
    with pytest.raises(DataError, match=r"rgb/shard-00000\.tar is truncated.*make it again"):
        read_header(tar)


def test_a_tar_cut_between_two_members_is_truncated(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    index = load_index(tar)
    os.truncate(tar, int(index.offsets[3]) - 512)
    with pytest.raises(DataError, match="truncated.*without an end mark, after 3 samples"):
        load_index(tar)


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(shards: Path) -> None:
    tar = shard_path(shards, "rgb", 0)
    content = bytearray(tar.read_bytes())
    content[int(load_index(tar).offsets[3]) - 512 + 150] ^= 1  # within the header's own checksum
    tar.write_bytes(content)
    with pytest.raises(DataError, match="neither a member nor an end mark, after 3 samples"):
        scan_tar(tar)


def test_something_else_than_a_tar_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"not a tar" * 1000)
    with pytest.raises(DataError, match="not a tar"):
        load_index(tmp_path / "t.tar")


def test_several_files_per_key_are_an_error(tmp_path: Path) -> None:
    tar = foreign_tar(tmp_path / "t.tar", {"a.jpg": b"1", "a.txt": b"2"})
    with pytest.raises(DataError, match="'a' more than once.*jpg, txt.*one folder per modality"):
        load_index(tar)
