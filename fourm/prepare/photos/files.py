"""The files of a folder, here or at a URL."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fourm.data.folder import walk
from fourm.data.remote import attempt, filesystem
from fourm.errors import DataError

LARGEST = 2**30
"""Bytes that one photograph, or one file beside it, may have."""


class Files(Protocol):
    """A folder of files. Names are relative to it.

    Attributes:
        name: of the folder, for errors.
    """

    name: str

    def all(self) -> Iterator[str]:
        """All files that are not hidden, in any order."""

    def exists(self, file: str) -> bool:
        """Whether there is such a file, as far as listing them has told."""

    def where(self, file: str) -> str:
        """A path or URL."""

    def read(self, file: str) -> bytes:
        """A file's bytes.

        Raises:
            OSError: if it is not there, no file, may not be read, or is too large.
            DataError: if the place it is at cannot be reached.
        """


class LocalFiles:
    """The files of a folder on this machine.

    Raises:
        DataError: if there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"there is no folder {root} with photographs; it is relative to where the command runs")
        self.root = root
        self.name = str(root)

    def all(self) -> Iterator[str]:
        return (path.relative_to(self.root).as_posix() for path in walk(self.root))

    def exists(self, file: str) -> bool:
        return (self.root / file).exists()

    def where(self, file: str) -> str:
        return str(self.root / file)

    def read(self, file: str) -> bytes:
        path = self.root / file
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise OSError("it is not a regular file")
        check_size(state.st_size)
        return path.read_bytes()


class RemoteFiles:
    """The files of a folder at a URL."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self.system, path = filesystem(self.name)
        self.path = path.rstrip("/")
        self._listed: set[str] = set()

    def all(self) -> Iterator[str]:
        def find() -> list[str]:
            self.system.invalidate_cache()
            return [str(path) for path in self.system.find(self.path)]

        found = (path.removeprefix(self.path).lstrip("/") for path in attempt(find, f"list {self.name}"))
        self._listed = {file for file in found if file and not any(part.startswith(".") for part in file.split("/"))}
        return iter(self._listed)

    def exists(self, file: str) -> bool:
        return file in self._listed

    def where(self, file: str) -> str:
        return f"{self.name}/{file}"

    def read(self, file: str) -> bytes:
        def get() -> bytes:
            with self.system.open(f"{self.path}/{file}", "rb") as opened:
                content: bytes = opened.read(LARGEST + 1)
            return content

        content = attempt(get, f"read {self.where(file)}")
        check_size(len(content))
        return content


def check_size(size: int) -> None:
    """Refuse what cannot be one photograph.

    Raises:
        OSError: if it is too large.
    """
    if size > LARGEST:
        raise OSError(f"more than {LARGEST:,} bytes are too many for one photograph")
