"""Folders at URLs (`s3://`, `memory://` ..., by fsspec), with the methods of `pathlib.Path` that checkpoints need."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path
from typing import Any

from fourm.data.remote import attempt, filesystem, is_url


@dataclass(frozen=True)
class Status:
    """What is known of a file; `st_size` in bytes."""

    st_size: int


@total_ordering
class RemotePath:
    """A folder or file at a URL. Reading and writing is tried again where it fails for a moment.

    Args:
        url: with its protocol.

    Raises:
        ConfigError: for a protocol that is unknown or not installed.
        StorageError: where the storage does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._path = filesystem(self.url)

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (self.url,)  # between ranks; each has its own connection

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0])

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in the folder; nothing if there is no such folder."""

        def names() -> list[str]:
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._path, detail=False)
            except FileNotFoundError:
                return []
            return [name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != self._path.rstrip("/")]

        return (self / name for name in sorted(attempt(names, f"list {self}")))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies in the folder and matches."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def is_file(self) -> bool:
        """Whether it is there; fsspec's own answer is no, too, where the storage does not give one."""

        def look() -> bool:
            try:
                return bool(self._files.info(self._path)["type"] == "file")
            except FileNotFoundError:
                return False

        return attempt(look, f"look for {self}")

    def stat(self) -> Status:
        return Status(int(attempt(lambda: self._files.size(self._path), f"look at {self}")))

    def read_text(self, encoding: str = "utf-8") -> str:
        return str(attempt(lambda: self._files.cat_file(self._path), f"read {self}").decode(encoding))

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write a file whole: object stores show it when it is complete."""
        attempt(lambda: self._files.pipe_file(self._path, text.encode(encoding)), f"write {self}")

    def remove(self) -> None:
        """Delete a file, or a folder with what is in it; it may be gone already."""

        def remove() -> None:
            try:
                self._files.rm(self._path, recursive=True)
            except FileNotFoundError:
                return

        attempt(remove, f"delete {self}")


Place = Path | RemotePath


def place(where: str | Path) -> Any:
    """A local path or a URL as an object that can be asked."""
    return RemotePath(str(where)) if is_url(str(where)) else Path(where)
