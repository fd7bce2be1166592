"""Shards at URLs: tars come into a bounded folder of this machine as they are read, and leave it when others need room.

The folder has the layout of the data set. All processes of a machine share it: a tar is fetched once, by whoever needs
it first. Indexes have to lie beside the tars, as every command here writes them; of a data set's opening, only the
first bytes of each are fetched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from fourm.data.configs import CacheConfig
from fourm.data.files import write_error
from fourm.data.index import HEADER_BYTES, ShardHeader, ShardIndex, header_from_json, index_path
from fourm.data.paths import natural, split_pattern
from fourm.data.remote import RemoteFile, attempt, filesystem
from fourm.data.room import Room, locked
from fourm.data.shards import FACTS_FILE
from fourm.data.storage import open_file
from fourm.errors import DataError
from fourm.files import publish

_LOG = logging.getLogger(__name__)
_CONNECTIONS = 16
_CHUNK = 8 * 2**20
_HEADERS = "headers.json"


class Mirror:
    """A data set at a URL.

    Args:
        path: URL of a folder of sources, or a pattern such as `s3://data/[rgb,depth]/shard-{00000..00009}.tar`.
        config: where, and how much of it is kept.

    Raises:
        ConfigError: for an unknown protocol.
        DataError: if it cannot be reached.
    """

    def __init__(self, path: str, config: CacheConfig) -> None:
        self.path, self.config = path.rstrip("/"), config
        self._pattern = split_pattern(self.path)
        self.url = (self._pattern[0] if self._pattern else self.path).rstrip("/")
        digest = hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()
        self.root = config.root / f"{self.url.rpartition('/')[2] or 'data'}-{digest}"
        self._headers: dict[str, ShardHeader] = {}
        self._room = Room(config.root, config.gib)
        self._fetched: dict[Path, int] = {}
        self._warned = False
        filesystem(self.url)

    def facts(self, sources: Iterable[str]) -> None:
        """Fetch the facts of sources, where they have some; they are small and come anew each time."""
        for source in sources:
            with contextlib.suppress(FileNotFoundError):
                _publish(self.root / source / FACTS_FILE, self._content(f"{source}/{FACTS_FILE}"))

    def tars(self, sources: Iterable[str]) -> dict[str, list[Path]]:
        found = {source: [self.root / source / name for name in self._names(source)] for source in sources}
        self._load_headers([tar for tars in found.values() for tar in tars])
        return found

    def _names(self, source: str) -> list[str]:
        if self._pattern is not None:
            return self._pattern[1]
        system, path = filesystem(f"{self.url}/{source}")
        try:
            listed = attempt(lambda: system.ls(path, detail=False), f"list {self.url}/{source}")
        except FileNotFoundError:
            raise DataError(
                f"{self.url} has no '{source}'. Make this source, list only the modalities that are there under "
                "`modalities:`, or rename with `modality_name_map:`"
            ) from None
        names = [str(name).rstrip("/").rpartition("/")[2] for name in listed]
        tars = sorted((n for n in names if n.endswith(".tar") and not n.startswith(".")), key=natural)
        if not tars:
            raise DataError(f"{self.url}/{source} has no shards (shard-00000.tar, ...)")
        return tars

    def _load_headers(self, tars: list[Path]) -> None:
        """Know the header of every tar: from an earlier opening, or from the beginning of its index."""
        file = self.root / _HEADERS
        with contextlib.suppress(OSError, ValueError, TypeError):
            stored = json.loads(file.read_bytes())
            self._headers = {name: ShardHeader(**facts) for name, facts in stored.items()}
        missing = [tar for tar in tars if self._name(tar) not in self._headers]
        if not missing:
            return
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for tar, header in zip(missing, pool.map(self._remote_header, missing)):
                self._headers[self._name(tar)] = header
        _publish(file, json.dumps({name: dataclasses.asdict(h) for name, h in self._headers.items()}).encode())

    def _remote_header(self, tar: Path) -> ShardHeader:
        name = self._name(index_path(tar))
        try:
            header = header_from_json(self._content(name, HEADER_BYTES))
        except FileNotFoundError:
            header = None
        if header is None:
            raise DataError(
                f"{self.where(tar)} has no index beside it ({index_path(tar).name}), without which it would have to be "
                "read to its end first: open the data once where it lies on a disk (`fourm prepare verify FOLDER`), "
                "and copy the index files that this makes beside the tars"
            )
        return header

    def header(self, tar: Path) -> ShardHeader:
        return self._headers[self._name(tar)]

    def index(self, tar: Path) -> ShardIndex:
        path = index_path(tar)
        for known in (True, False):
            if not (known and path.is_file()):
                with locked(_lock_of(path)):
                    _publish(path, self._content(self._name(path)))
            found = ShardIndex.from_json(path.read_bytes())
            if found is not None and found.header == self.header(tar):
                return found
        raise DataError(
            f"{self.where(tar)} or its index was changed while this reads it. Remove {self.root} and start again"
        )

    def open(self, tar: Path) -> int:
        with contextlib.suppress(FileNotFoundError):
            return _opened(tar)
        with locked(_lock_of(tar)):
            with contextlib.suppress(FileNotFoundError):  # another process has fetched it meanwhile
                return _opened(tar)
            return self._fetch(tar)

    def where(self, tar: Path) -> str:
        return f"{self.url}/{self._name(tar)}"

    def prefetch(self, tars: Sequence[Path]) -> None:
        """Fetch tars that are wanted next, one after the other; returns at once."""
        wanted = [tar for tar in tars if not tar.is_file()]
        if wanted:
            threading.Thread(target=self._fetch_ahead, args=(wanted,), daemon=True).start()

    def _fetch_ahead(self, tars: list[Path]) -> None:
        try:
            for tar in tars:
                with locked(_lock_of(tar)):
                    if not tar.is_file():
                        os.close(self._fetch(tar))
        except Exception as error:  # whoever needs the tar meets the same and tells it
            _LOG.debug("fetching ahead: %s", error)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _content(self, name: str, most: int = -1) -> bytes:
        try:
            with RemoteFile(f"{self.url}/{name}") as remote:
                return remote.read(most) if most >= 0 else remote.readall()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _refused(f"{self.url}/{name}", error) from error

    def _fetch(self, tar: Path) -> int:
        """Fetch a tar; a descriptor of it, which is good also where another process needs its room at once."""
        self._tell_of_thrashing(tar)
        size = self.header(tar).tar_bytes
        return self._room.filled(tar, size, lambda file: self._copy(tar, size, file))

    def _copy(self, tar: Path, size: int, file: BinaryIO) -> None:
        try:
            with RemoteFile(self.where(tar)) as remote:
                fetched = 0
                while data := remote.read(_CHUNK):
                    file.write(data)
                    fetched += len(data)
        except FileNotFoundError as error:
            raise DataError(f"cannot read shard {self.where(tar)}: it is not there ({error})") from error
        except PermissionError as error:
            raise _refused(self.where(tar), error) from error
        if fetched != size:
            raise DataError(
                f"{self.where(tar)} has {fetched:,} bytes, its index tells of {size:,}: it was cut off, or one of both "
                f"is old. Make it again, then remove {self.root}"
            )

    def _tell_of_thrashing(self, tar: Path) -> None:
        """Say once that tars leave before they have been used."""
        last, now = self._fetched.get(tar), len(self._fetched)
        if last is not None and now - last < len(self._headers) / 2 and not self._warned:
            self._warned = True
            _LOG.warning(
                "%s is fetched again soon after it was removed: data.cache.gib (%g) is less than the shards that are "
                "shuffled together; raise it, or lower data.shuffle_window",
                self.where(tar),
                self.config.gib,
            )
        self._fetched[tar] = now


def _publish(path: Path, content: bytes) -> None:
    try:
        publish(path, content)
    except OSError as error:
        raise write_error(path, error) from error


def _refused(url: str, error: OSError) -> DataError:
    return DataError(f"cannot read {url}: {error}. Check the address, and that the credentials allow it")


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _opened(tar: Path) -> int:
    handle = open_file(tar)
    os.utime(tar, ns=(time.time_ns(),) * 2)  # the oldest leave first; finer than the system's own clock
    return handle
