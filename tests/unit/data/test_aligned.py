from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourm.data import aligned
from fourm.data.aligned import AlignedShards
from fourm.data.index import index_path, keys_digest
from fourm.data.shards import ShardWriter, shard_path, write_source_facts
from fourm.errors import DataError

SOURCES = ["rgb", "caption"]


def test_every_sample_is_read_by_its_number(shards: Path, data: type) -> None:
    source = AlignedShards(shards, SOURCES)
    assert source.shard_sizes == [5, 3]
    assert len(source) == 8
    for n in range(8):
        sample = data.make_sample(n)
        assert source.read(n) == {name: sample[name] for name in SOURCES}
        assert source.key(n) == f"{n:06d}"
    assert source.keys_digest(1) == keys_digest(["000005", "000006", "000007"])


def test_errors_can_name_tar_and_key(shards: Path) -> None:
    assert AlignedShards(shards, SOURCES).where(6, "caption") == f"{shards}/caption/shard-00001.tar, key '000006'"


@pytest.mark.parametrize("n", [-1, 8])
def test_numbers_outside_are_refused(shards: Path, n: int) -> None:
    with pytest.raises(IndexError, match="of 8"):
        AlignedShards(shards, SOURCES).read(n)


def test_empty_shards_are_passed_over(tmp_path: Path, data: type) -> None:
    source = AlignedShards(data.write_shards(tmp_path, [0, 2, 0, 1], ["rgb"]), ["rgb"])
    assert [source.key(n) for n in range(len(source))] == ["000000", "000001", "000002"]


def test_a_copy_in_another_process_reads_the_same(shards: Path) -> None:
    source = AlignedShards(shards, SOURCES)
    source.read(0)
    assert pickle.loads(pickle.dumps(source)).read(7) == source.read(7)


def test_files_stay_within_the_limit_of_open_ones(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligned, "_OPEN_FILES", 1)
    monkeypatch.setattr(aligned, "_OPEN_INDEXES", 1)
    before = len(os.listdir("/proc/self/fd"))
    source = AlignedShards(shards, SOURCES)
    first = [source.read(n) for n in range(8)]
    assert [source.read(n) for n in range(8)] == first
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_shard_names_it(shards: Path, reports: Callable[..., Any]) -> None:
    shard_path(shards, "caption", 1).unlink()
    reports(DataError, lambda: AlignedShards(shards, SOURCES), "'rgb' has 'shard-00001.tar'", "'caption' has nothing")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_source_with_fewer_shards_than_it_says_is_not_complete(
    tmp_path: Path, data: type, reports: Callable[..., Any], lost: int
) -> None:
    data.write_shards(tmp_path, [1, 1, 1], ["rgb", "caption"])
    for source in SOURCES:
        write_source_facts(tmp_path, source, {"num_shards": 3})
    assert len(AlignedShards(tmp_path, SOURCES)) == 3
    for source in SOURCES:
        shard_path(tmp_path, source, lost).unlink()
    reports(
        DataError, lambda: AlignedShards(tmp_path, SOURCES),
        f"{tmp_path / 'rgb'} is not complete: shard-0000{lost}.tar is missing, 1 of 3", "run the same command again",
    )  # fmt: skip
    if lost:
        assert len(AlignedShards(f"{tmp_path}/[rgb,caption]/shard-{{00000..00000}}.tar", SOURCES)) == 1


def test_shards_made_by_hand_need_no_facts_and_may_begin_anywhere(tmp_path: Path, data: type) -> None:
    data.write_shards(tmp_path, [1, 1, 1], SOURCES)
    write_source_facts(tmp_path, "rgb", {"made_by": "me"})
    for source in SOURCES:
        shard_path(tmp_path, source, 0).unlink()
    assert len(AlignedShards(tmp_path, SOURCES)) == 2


def test_other_keys_name_shard_position_keys_and_remedy(shards: Path, reports: Callable[..., Any]) -> None:
    with ShardWriter(shards, 1, {"caption": "json"}) as writer:
        for key in ("000005", "000077", "000007"):
            writer.write(key, {"caption": b"[]"})
    reports(
        DataError, lambda: AlignedShards(shards, SOURCES),
        "shard-00001.tar", "position 1", "'rgb' has '000006'", "'caption' has '000077'", "Make this shard again",
    )  # fmt: skip


def test_missing_indexes_are_built_when_opened(shards: Path) -> None:
    for path in shards.rglob("*.index.json"):
        path.unlink()
    assert len(AlignedShards(shards, SOURCES)) == 8
    assert index_path(shard_path(shards, "rgb", 0)).is_file()


def test_a_truncated_tar_is_found_when_opened(shards: Path) -> None:
    os.truncate(shard_path(shards, "rgb", 1), 1500)
    with pytest.raises(DataError, match=r"rgb/shard-00001\.tar is truncated"):
        AlignedShards(shards, SOURCES)


def rewrite(tar: Path, change: Callable[[list[tarfile.TarInfo]], None], **options: Any) -> None:
    """Change the members of a tar behind the back of its index, which stays and is not older."""
    with tarfile.open(tar) as before:
        members = before.getmembers()
        contents = {id(member): before.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(tar, "w", **options) as after:
        for member in members:
            after.addfile(member, io.BytesIO(contents[id(member)]))
    os.utime(tar, ns=(0, 0))


def rename(members: list[tarfile.TarInfo]) -> None:
    members[1].name = "000077.json"


def swap(members: list[tarfile.TarInfo]) -> None:
    members[1], members[2] = members[2], members[1]


@pytest.mark.parametrize("change", [rename, swap])
def test_a_member_of_another_name_than_the_index_says_is_an_error(
    shards: Path, change: Callable[[list[tarfile.TarInfo]], None], reports: Callable[..., Any]
) -> None:
    tar = shard_path(shards, "caption", 0)
    size = tar.stat().st_size
    rewrite(tar, change)
    assert tar.stat().st_size == size
    source = AlignedShards(shards, SOURCES)
    source.read(0)
    reports(DataError, lambda: source.read(1), str(tar), "'000001'", f"Remove {index_path(tar)}")


def test_a_member_of_another_length_than_the_index_says_is_an_error(shards: Path) -> None:
    tar = shard_path(shards, "caption", 0)
    rewrite(tar, lambda members: setattr(members[4], "size", members[4].size - 1))
    with pytest.raises(DataError, match="'000004'"):
        AlignedShards(shards, SOURCES).read(4)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "stem", ["7", "./part/7", "a" * 60 + "/" + "b" * 60, "./" + "c" * 94, "\u00e4\u00f6", "d" * 95]
)
def test_tars_of_other_writers_are_read(tmp_path: Path, form: int, stem: str) -> None:
    (tmp_path / "rgb").mkdir()
    with tarfile.open(tmp_path / "rgb" / "0.tar", "w", format=form) as tar:
        info = tarfile.TarInfo(f"{stem}.PNG")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("plain")
        info.size = 0
        tar.addfile(info)
    source = AlignedShards(tmp_path, ["rgb"])
    assert [source.read(n) for n in (0, 1)] == [{"rgb": b"abc"}, {"rgb": b""}]


def test_names_that_lead_out_of_a_tar_are_names_only(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    (tmp_path / "secret.txt").write_bytes(b"of the file system")
    with tarfile.open(tmp_path / "rgb" / "0.tar", "w") as tar:
        info = tarfile.TarInfo("../secret.txt")
        info.size = 10
        tar.addfile(info, io.BytesIO(b"of the tar"))
    source = AlignedShards(tmp_path, ["rgb"])
    assert source.read(0) == {"rgb": b"of the tar"}
    with pytest.raises(DataError, match="keys must not"), ShardWriter(tmp_path, 0, {"copy": "txt"}) as writer:
        writer.write(source.key(0), {"copy": source.read(0)["rgb"]})


def test_a_tar_that_shrinks_later_is_an_error(shards: Path) -> None:
    source = AlignedShards(shards, SOURCES)
    source.read(0)
    os.truncate(shard_path(shards, "rgb", 0), 600)
    with pytest.raises(DataError, match="became shorter"):
        source.read(4)


def test_a_tar_that_vanishes_later_is_an_error(shards: Path) -> None:
    source = AlignedShards(shards, SOURCES)
    shard_path(shards, "rgb", 0).unlink()
    with pytest.raises(DataError, match=r"cannot read shard .*rgb/shard-00000\.tar"):
        source.read(0)


def test_reading_nothing_is_an_error(shards: Path) -> None:
    with pytest.raises(DataError, match="no modalities"):
        AlignedShards(shards, [])
