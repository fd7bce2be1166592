"""Random access to aligned shards: one index lookup and one read per file."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from fourm.data.alignment import check_same
from fourm.data.configs import CacheConfig
from fourm.data.index import ShardIndex, index_path, scan_tar
from fourm.data.remote import attempt, is_url
from fourm.data.storage import PASSING, LocalStorage, Storage
from fourm.errors import DataError

V = TypeVar("V")
_OPEN_FILES = 128
_OPEN_INDEXES = 4096
_INDEXED_SAMPLES = 16_000_000
"""Entries of all indexes in memory together: about 16 bytes each."""


class AlignedShards:
    """Tars of several sources with the same keys in the same order.

    Opening it compares the headers of all indexes (and builds missing indexes); keys and offsets are loaded shard by
    shard as they are read.

    Args:
        path: a folder with `<source>/shard-*.tar`, or a pattern (`fourm.data.paths.find_tars`); at a URL too.
        sources: folders to read.
        cache: of shards at URLs.

    Raises:
        DataError: if a tar is missing or damaged, or the sources differ in their shards or keys.
    """

    def __init__(self, path: str | Path, sources: Iterable[str], cache: CacheConfig | None = None) -> None:
        self.name = str(path)
        self.storage = _storage(self.name, cache)
        self.tars = self.storage.tars(sources)
        if not self.tars:
            raise DataError(f"no sources to read in {self.name}: the recipe lists no modalities for it")
        self.shard_sizes = self._check()
        self._starts = [0, *accumulate(self.shard_sizes)]
        self._open()

    def _open(self) -> None:
        self._indexes: _Recent[ShardIndex] = _Recent(
            _light_indexes(self.storage), _OPEN_INDEXES, size=lambda index: len(index.keys), total=_INDEXED_SAMPLES
        )
        self._scans: _Recent[ShardIndex] = _Recent(scan_tar, 64)
        self._files: _Recent[int] = _Recent(self.storage.open, _OPEN_FILES, os.close, stale=_is_removed)

    def _check(self) -> list[int]:
        shards = {source: [tar.name for tar in tars] for source, tars in self.tars.items()}
        check_same(
            f"shards in {self.name}",
            shards,
            "Make the missing shards (an interrupted command continues where it stopped)",
        )
        headers = {source: [self.storage.header(tar) for tar in tars] for source, tars in self.tars.items()}
        first, *others = headers
        for shard, name in enumerate(shards[first]):
            if any(headers[other][shard].keys_digest != headers[first][shard].keys_digest for other in others):
                keys = {source: self.storage.index(tars[shard]).keys for source, tars in self.tars.items()}
                check_same(
                    f"shard {name} in {self.name}", keys, "Make this shard again for both sources from the same samples"
                )
        return [header.num_samples for header in headers[first]]

    def __len__(self) -> int:
        return self._starts[-1]

    def _locate(self, n: int) -> tuple[int, int]:
        if not 0 <= n < len(self):
            raise IndexError(f"sample {n} of {len(self)} in {self.name}")
        shard = bisect_right(self._starts, n) - 1
        return shard, n - self._starts[shard]

    def key(self, n: int) -> str:
        """The key of sample n."""
        shard, row = self._locate(n)
        return self._indexes[next(iter(self.tars.values()))[shard]].keys[row]

    def keys_digest(self, shard: int) -> str:
        """The hash of the keys of a shard, in order."""
        return self.storage.header(next(iter(self.tars.values()))[shard]).keys_digest

    def content_digest(self, shard: int) -> str:
        """The hash of the checksums in all indexes of a shard; empty if one of them has none."""
        digests = [self.storage.header(tars[shard]).content_digest for _, tars in sorted(self.tars.items())]
        return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest() if all(digests) else ""

    def where(self, n: int, source: str | None = None) -> str:
        """The tar and key of sample n, for errors."""
        tar = self.tars[source or next(iter(self.tars))][self._locate(n)[0]]
        name = self.storage.where(tar if source else tar.parents[1] / "*" / tar.name)
        return f"{name}, key '{self.key(n)}'"

    def read(self, n: int) -> dict[str, bytes]:
        """The encoded files of sample n, by source.

        Raises:
            DataError: if a tar cannot be read, has become shorter, or holds something else than its index says.
        """
        return {source: self.read_file(n, source) for source in self.tars}

    def read_file(self, n: int, source: str) -> bytes:
        """The encoded file of sample n in one source.

        Raises:
            DataError: as `read` does.
        """
        shard, row = self._locate(n)
        tar = self.tars[source][shard]
        index = self._indexes[tar]
        size = BLOCKSIZE + index.sizes.item(row)
        data = self._bytes(tar, size, index.offsets.item(row) - BLOCKSIZE)
        if len(data) != size:
            raise DataError(f"shard {tar} became shorter while it was read (key '{index.keys[row]}'). Make it again")
        if not index.holds(row, data):
            self._compare(tar, row)
        return data[BLOCKSIZE:]

    def _bytes(self, tar: Path, size: int, offset: int) -> bytes:
        """Part of a tar; where a server stalls it is opened anew and read again, a few times."""

        def read() -> bytes:
            try:
                return os.pread(self._files[tar], size, offset)
            except OSError:
                self._files.drop(tar)
                raise

        try:
            return attempt(read, f"read shard {tar}", passing=PASSING)
        except OSError as error:
            raise DataError(
                f"cannot read shard {tar}: {error.strerror}. Check the disk, or make the shard again"
            ) from error

    @property
    def prefetch(self) -> Callable[[Iterable[int]], None] | None:
        """Tells which shards are read next; None where they are on this machine."""
        fetch = self.storage.prefetch
        if fetch is None:
            return None
        return lambda shards: fetch([tars[shard] for shard in shards for tars in self.tars.values()])

    def _compare(self, tar: Path, row: int) -> None:
        """See that an index says of one member what a scan of its tar does."""
        index = self._indexes[tar]
        if self._scans[tar].member(row) != index.member(row):
            raise DataError(
                f"shard {tar} was changed, but not its index: at byte {index.offsets[row]} is not key "
                f"'{index.keys[row]}'. Remove {index_path(tar)}: it is made again when the data is opened, and "
                "compared with those of the other sources"
            )

    def __getstate__(self) -> dict[str, Any]:
        # Loader processes open their own files: descriptors mean nothing elsewhere, and indexes load faster than they
        # travel.
        state = self.__dict__.copy()
        del state["_indexes"], state["_scans"], state["_files"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _storage(path: str, cache: CacheConfig | None) -> Storage:
    if not is_url(path):
        return LocalStorage(path)
    from fourm.data.mirror import Mirror

    return Mirror(path, cache or CacheConfig())


def _light_indexes(storage: Storage) -> Callable[[Path], ShardIndex]:
    """Indexes as they are kept: aligned sources have the same keys, which are there once; nobody reads checksums."""
    known: WeakValueDictionary[str, _Keys] = WeakValueDictionary()

    def load(tar: Path) -> ShardIndex:
        index = storage.index(tar)
        keys = known.setdefault(index.header.keys_digest, _Keys(index.keys))
        return replace(index, keys=keys, checksums=index.checksums[:0])

    return load


def _is_removed(handle: int) -> bool:
    """Whether an open file has no name any more, but still its room on the disk: a tar that has left the cache."""
    return os.fstat(handle).st_nlink == 0


class _Keys(list[str]):
    """The keys of a shard; unlike a plain list, it can be known without being kept."""


class _Recent(Generic[V]):
    """The most recently used values by path.

    Args:
        make: a value of a path.
        limit: most values.
        drop: called for each value that leaves.
        size: of a value.
        total: most that their sizes may add up to.
        stale: whether a value leaves when the next one is made.
    """

    def __init__(
        self,
        make: Callable[[Path], V],
        limit: int,
        drop: Callable[[V], None] | None = None,
        size: Callable[[V], int] = lambda value: 0,
        total: int = 0,
        stale: Callable[[V], bool] = lambda value: False,
    ) -> None:
        self._make, self._limit, self._drop, self._size, self._total = make, limit, drop, size, total
        self._stale = stale
        self._values: OrderedDict[Path, V] = OrderedDict()
        self._used = 0

    def __getitem__(self, path: Path) -> V:
        value = self._values.get(path)
        if value is None:
            for other in [known for known, value in self._values.items() if self._stale(value)]:
                self.drop(other)
            value = self._values[path] = self._make(path)
            self._used += self._size(value)
            while len(self._values) > 1 and (len(self._values) > self._limit or self._used > self._total):
                self.drop(next(iter(self._values)))
        else:
            self._values.move_to_end(path)
        return value

    def drop(self, path: Path) -> None:
        """Let a value go, if it is there."""
        value = self._values.pop(path, None)
        if value is not None:
            self._used -= self._size(value)
            if self._drop is not None:
                self._drop(value)

    def __del__(self) -> None:
        if self._drop is not None:
            for value in self._values.values():
                self._drop(value)
