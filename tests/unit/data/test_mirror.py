"""Shards at URLs come through a bounded folder: the same samples as from a disk, whatever the storage does."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fourm.data import mirror, remote, room
from fourm.data.aligned import AlignedShards
from fourm.data.configs import CacheConfig, DatasetConfig
from fourm.data.dataset import build_dataset, check_tokens
from fourm.data.index import index_path
from fourm.data.loader import Loader
from fourm.data.mixture import Mixture
from fourm.data.order import ShuffledOrder
from fourm.data.shards import shard_path, write_source_facts
from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError

SOURCES = ["rgb", "caption"]


class Flaky(MemoryFileSystem):
    """Storage that fails as many times as it is told to, and counts what is opened."""

    protocol = "flaky"
    cachable = False
    fail: int = 0
    opened: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        Flaky.opened.append(path)
        if Flaky.fail > 0:
            Flaky.fail -= 1
            raise ConnectionResetError("reset by peer")
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(str(tmp_path / "cache"))


@pytest.fixture
def url(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The two shards of five and three samples, in an object store."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))
    store, Flaky.fail = Flaky(), 0
    for file in shards.rglob("*"):
        if file.is_file():
            store.pipe_file(f"/set/{file.relative_to(shards)}", file.read_bytes())
    Flaky.opened = []
    yield "flaky://set"
    store.rm("/set", recursive=True)


def tars(cache: CacheConfig) -> list[Path]:
    return sorted(cache.root.glob("*/*/*.tar"))


def test_every_sample_is_what_it_is_on_a_disk(shards: Path, url: str, cache: CacheConfig) -> None:
    here, there = AlignedShards(shards, SOURCES), AlignedShards(url, SOURCES, cache)
    assert there.shard_sizes == here.shard_sizes
    assert [there.read(n) for n in range(8)] == [here.read(n) for n in range(8)]
    assert there.where(6, "caption") == "flaky://set/caption/shard-00001.tar, key '000006'"


def test_tars_are_fetched_once_and_only_when_they_are_read(url: str, cache: CacheConfig) -> None:
    source = AlignedShards(url, SOURCES, cache)
    assert tars(cache) == []
    source.read(0)
    assert [tar.name for tar in tars(cache)] == ["shard-00000.tar"] * 2
    source.read(4)
    AlignedShards(url, SOURCES, cache).read(1)
    assert sum(path.endswith(".tar") for path in Flaky.opened) == 2


def test_a_second_opening_fetches_no_header(url: str, cache: CacheConfig) -> None:
    AlignedShards(url, SOURCES, cache)
    Flaky.opened = []
    AlignedShards(url, SOURCES, cache)
    assert Flaky.opened == []


def test_a_pattern_chooses_shards(url: str, cache: CacheConfig) -> None:
    source = AlignedShards(f"{url}/[rgb,caption]/shard-{{00001..00001}}.tar", SOURCES, cache)
    assert (len(source), source.key(0)) == (3, "000005")


def test_broken_connections_are_made_again_and_told(
    url: str, cache: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    source = AlignedShards(url, ["caption"], cache)
    Flaky.fail = 3
    with caplog.at_level(logging.WARNING):
        assert source.read(0)["caption"].startswith(b"[")
    assert "ConnectionResetError: reset by peer; trying again" in caplog.text


def test_storage_that_stays_away_is_an_error_that_leaves_nothing_behind(
    url: str, cache: CacheConfig, reports: Callable[..., Any]
) -> None:
    source = AlignedShards(url, ["caption"], cache)
    Flaky.fail = 99
    reports(DataError, lambda: source.read(0), "flaky://set/caption", "tried 4 times", "the same command goes on")
    Flaky.fail = 0
    assert source.read(0)
    assert list(cache.root.rglob("*.tmp")) == []


def room_for(shards: Path, count: int, folder: str) -> CacheConfig:
    """A cache that `count` of the tars fit in."""
    largest = max(tar.stat().st_size for tar in shards.glob("rgb/*.tar"))
    return CacheConfig(folder, gib=count * largest / 2**30)


def test_the_cache_stays_within_its_bound(url: str, shards: Path, tmp_path: Path) -> None:
    cache = room_for(shards, 1, str(tmp_path / "small"))
    source, whole = AlignedShards(url, ["rgb"], cache), AlignedShards(shards, ["rgb"])
    for n in (0, 5, 1, 6, 2):
        assert source.read(n) == whole.read(n)
        assert sum(tar.stat().st_size for tar in tars(cache)) <= cache.gib * 2**30
    assert len(tars(cache)) == 1


def test_what_was_opened_longest_ago_leaves_first(url: str, shards: Path, tmp_path: Path) -> None:
    cache = room_for(shards, 2, str(tmp_path / "small"))
    AlignedShards(url, ["rgb"], cache).read(0)
    AlignedShards(url, ["rgb"], cache).read(5)
    AlignedShards(url, ["rgb"], cache).read(0)  # opened again
    AlignedShards(url, ["depth"], cache).read(0)
    assert [tar.relative_to(tar.parents[1]).as_posix() for tar in tars(cache)][-1] == "rgb/shard-00000.tar"
    assert sum("rgb" in tar.parts for tar in tars(cache)) == 1


def test_a_cache_that_is_too_small_says_so(
    url: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, reports: Callable[..., Any]
) -> None:
    tiny = CacheConfig(str(tmp_path / "tiny"), gib=1e-6)
    reports(ConfigError, lambda: AlignedShards(url, ["rgb"], tiny).read(0), "data.cache.gib is 1e-06", "raise it")
    source = AlignedShards(url, ["rgb", "depth"], room_for(shards, 1, str(tmp_path / "small")))
    with caplog.at_level(logging.WARNING):
        for n in (0, 5, 0, 5):
            source._open()  # no tar stays open
            source.read(n)
    assert caplog.text.count("is fetched again soon after it was removed") == 1


def test_next_shards_can_come_ahead(url: str, cache: CacheConfig) -> None:
    source = AlignedShards(url, SOURCES, cache)
    assert source.prefetch is not None
    source.prefetch([1])
    deadline = time.monotonic() + 20
    while len(tars(cache)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [tar.name for tar in tars(cache)] == ["shard-00001.tar"] * 2


def read_all(url: str, cache: CacheConfig, out: Any) -> None:
    out.put([sample["rgb"] for sample in map(AlignedShards(url, ["rgb"], cache).read, range(8))])


def test_processes_share_the_cache(shards: Path, tmp_path: Path) -> None:
    cache = room_for(shards, 1, str(tmp_path / "shared"))
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    processes = [context.Process(target=read_all, args=(f"file://{shards}", cache, out)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    whole = AlignedShards(shards, ["rgb"])
    assert found == [[whole.read(n)["rgb"] for n in range(8)]] * 3
    assert sum(tar.stat().st_size for tar in tars(cache)) <= cache.gib * 2**30


def on_disk(cache: CacheConfig) -> int:
    """Bytes of tars, and of what is being fetched, also of files that have no name any more."""
    found = 0
    for file in cache.root.glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):  # another thread has just removed it, or given it its name
            found += file.stat().st_size if ".tar" in file.name else 0
    return found


def test_the_bound_holds_while_several_fetch_at_once(url: str, shards: Path, tmp_path: Path) -> None:
    cache, most = room_for(shards, 2, str(tmp_path / "small")), []
    sources = [AlignedShards(url, [name], cache) for name in ("rgb", "depth", "caption", "tok_rgb")]
    read = remote.RemoteFile.readinto

    def slow(self: remote.RemoteFile, buffer: Any) -> int:
        time.sleep(0.02)
        most.append(on_disk(cache))
        return read(self, buffer)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(remote.RemoteFile, "readinto", slow)
        for n in (0, 5):
            assert all(pool.map(lambda source, n=n: source.read(n), sources))
    assert max(most) <= cache.gib * 2**30


def test_what_a_killed_process_was_fetching_leaves_the_cache(url: str, shards: Path, tmp_path: Path) -> None:
    cache = room_for(shards, 2, str(tmp_path / "small"))
    source = AlignedShards(url, ["rgb"], cache)
    source.read(0)
    left = tars(cache)[0].with_name(".shard-00001.tar.1-0123abcd.tmp")  # of process 1, which lives, elsewhere
    left.write_bytes(bytes(10_000))
    source.read(5)
    assert not left.exists()


def test_tars_that_have_left_the_cache_do_not_keep_their_room_by_being_open(
    url: str, shards: Path, tmp_path: Path
) -> None:
    cache = room_for(shards, 1, str(tmp_path / "small"))
    source = AlignedShards(url, ["rgb", "depth", "tok_rgb"], cache)
    for n in (0, 5):
        source.read(n)
    opened = [os.fstat(handle) for handle in source._files._values.values()]
    assert sum(stat.st_size for stat in opened if not stat.st_nlink) <= cache.gib * 2**30


def test_a_process_forked_while_a_tar_is_fetched_does_not_keep_others_from_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with room.locked(lock):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if somebody has it
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_storage_that_forbids_reading_is_not_taken_for_a_full_disk(
    url: str, cache: CacheConfig, monkeypatch: pytest.MonkeyPatch, reports: Callable[..., Any]
) -> None:
    source = AlignedShards(url, ["rgb"], cache)

    def forbidden(self: Flaky, path: str, *args: Any, **options: Any) -> Any:
        raise PermissionError("ExpiredToken")

    monkeypatch.setattr(Flaky, "_open", forbidden)
    reports(DataError, lambda: source.read(0), "cannot read flaky://set/rgb", "ExpiredToken", "credentials")
    other = CacheConfig(str(cache.root) + "2")
    reports(DataError, lambda: AlignedShards(url, ["rgb"], other), "cannot read flaky://set/rgb", "credentials")


def test_tars_without_indexes_are_an_error_with_the_way_out(
    url: str, cache: CacheConfig, reports: Callable[..., Any]
) -> None:
    Flaky().rm_file(f"/set/rgb/{index_path(Path('shard-00001.tar')).name}")
    reports(DataError, lambda: AlignedShards(url, ["rgb"], cache), "rgb/shard-00001.tar has no index", "prepare verify")


def test_a_tar_that_was_cut_off_is_an_error(url: str, cache: CacheConfig, reports: Callable[..., Any]) -> None:
    source = AlignedShards(url, ["rgb"], cache)
    store = Flaky()
    store.pipe_file("/set/rgb/shard-00000.tar", store.cat_file("/set/rgb/shard-00000.tar")[:1000])
    reports(DataError, lambda: source.read(0), "has 1,000 bytes, its index tells of", "cut off")
    assert tars(cache) == []


def test_missing_sources_and_shards_are_named(url: str, cache: CacheConfig, reports: Callable[..., Any]) -> None:
    reports(DataError, lambda: AlignedShards(url, ["depht"], cache), "flaky://set has no 'depht'")
    source = AlignedShards(url, ["rgb"], cache)
    Flaky().rm_file("/set/rgb/shard-00000.tar")
    reports(DataError, lambda: source.read(0), "flaky://set/rgb/shard-00000.tar", "not there")


def test_recipes_read_urls_and_check_the_hashes_of_tokens_there(
    url: str, cache: CacheConfig, shards: Path, data: type, reports: Callable[..., Any]
) -> None:
    config = DatasetConfig(url, modalities=("rgb", "tok_rgb"))
    assert len(build_dataset("far", config, data.modalities, cache=cache)) == 8
    write_source_facts(shards, "tok_rgb", {"tokenizer_hash": "theirs"})
    Flaky().pipe_file("/set/tok_rgb/source.json", (shards / "tok_rgb" / "source.json").read_bytes())
    check_tokens("far", config, data.modalities, {"tok_rgb": "theirs"}, cache)
    reports(
        DataError, lambda: check_tokens("far", config, data.modalities, {"tok_rgb": "ours"}, cache), "theirs", "ours"
    )


def test_folders_of_files_and_streams_are_not_read_from_urls(url: str, reports: Callable[..., Any]) -> None:
    reports(DataError, lambda: open_source(url, ["rgb"], "folder"), "pack them first")
    reports(DataError, lambda: AlignedShards("pipe:cat x.tar", ["rgb"]), "is a stream")
    reports(DataError, lambda: AlignedShards("flaky://a/{0..1}/b.tar", ["rgb"]), "has the form ROOT/[source")


def test_a_disk_that_fails_for_a_moment_is_read_again(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))
    source, failures = AlignedShards(shards, ["rgb"]), [OSError(116, "Stale file handle")] * 2
    expected, pread = source.read(3), mirror.os.pread

    def failing(*args: Any) -> bytes:
        if failures:
            raise failures.pop()
        return pread(*args)

    monkeypatch.setattr("os.pread", failing)
    with caplog.at_level(logging.WARNING):
        assert source.read(3) == expected
    assert caplog.text.count("Stale file handle; trying again") == 2


def test_a_file_that_is_gone_is_not_waited_for(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (60.0,))
    source = AlignedShards(shards, ["rgb"])
    shard_path(shards, "rgb", 0).unlink()
    with pytest.raises(DataError, match="cannot read shard"):
        source.read(0)


def test_sources_share_their_keys_in_memory(shards: Path) -> None:
    source = AlignedShards(shards, SOURCES)
    source.read(0)
    keys = [source._indexes[tars[0]].keys for tars in source.tars.values()]
    assert keys[0] is keys[1]


def test_indexes_in_memory_are_bounded_by_their_entries(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourm.data.aligned._INDEXED_SAMPLES", 6)
    source = AlignedShards(shards, ["rgb"])
    first = [source.read(n) for n in range(8)]
    assert sum(len(index.keys) for index in source._indexes._values.values()) <= 6
    assert [source.read(n) for n in range(8)] == first


def test_a_loader_fetches_the_shards_that_it_reads_next(url: str, cache: CacheConfig, data: type) -> None:
    config = DatasetConfig(url, modalities=("rgb",))
    far = build_dataset("far", config, data.modalities, cache=cache)
    loader = Loader(Mixture({"far": far}), lambda sample, rng: 0, list, batch_size=1, window=1)
    next(iter(loader))
    deadline = time.monotonic() + 20
    while len(tars(cache)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(tars(cache)) == 2  # one sample was read, of one shard


def test_the_shards_that_follow_are_told_once_when_others_begin() -> None:
    order = ShuffledOrder([3, 2, 4], seed=0, name="x", window=1)
    windows = [[int(shard)] for epoch in (0, 1, 2) for shard in np.concatenate(order._epoch(epoch).windows)]
    told = [soon for place in range(18) if (soon := order.soon(place)) is not None]
    assert told == [windows[0] + windows[1], *windows[2:7]]
