from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourm.data import aligned
from fourm.data.aligned import AlignedShards
from fourm.data.index import index_path
from fourm.data.shards import ShardWriter, shard_path
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
