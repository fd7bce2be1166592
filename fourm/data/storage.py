"""Where the tars of a data set are: on this machine, or at URLs behind a bounded cache (`fourm.data.mirror`)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from fourm.data.index import ShardHeader, ShardIndex, load_index, read_header
from fourm.data.paths import find_tars
from fourm.data.remote import attempt

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, errno.ECONNRESET, errno.ENOTCONN)
"""What network file systems say when a server is slow or starts anew."""


class Storage(Protocol):
    """Tars and their indexes by local path; those of a mirror may not be there yet."""

    def tars(self, sources: Iterable[str]) -> dict[str, list[Path]]:
        """The tars of each source, in order."""

    def header(self, tar: Path) -> ShardHeader:
        """What is known of a tar without its list of keys."""

    def index(self, tar: Path) -> ShardIndex:
        """Keys and byte ranges of a tar."""

    def open(self, tar: Path) -> int:
        """A descriptor to read from."""

    def where(self, tar: Path) -> str:
        """What errors call a tar."""

    @property
    def prefetch(self) -> Callable[[Sequence[Path]], None] | None:
        """Tells which tars are wanted next, and returns at once; None where they are here."""


class LocalStorage:
    """Tars in folders of this machine, or of a network file system.

    Args:
        path: a folder or pattern (`fourm.data.paths.find_tars`).
    """

    prefetch = None

    def __init__(self, path: str) -> None:
        self.path = path

    def tars(self, sources: Iterable[str]) -> dict[str, list[Path]]:
        return find_tars(self.path, sources)

    def header(self, tar: Path) -> ShardHeader:
        return read_header(tar)

    def index(self, tar: Path) -> ShardIndex:
        return load_index(tar)

    def open(self, tar: Path) -> int:
        return attempt(lambda: open_file(tar), f"open {tar}", passing=PASSING)

    def where(self, tar: Path) -> str:
        return str(tar)


def open_file(tar: Path) -> int:
    """A descriptor of a file, closed in programs that this one starts."""
    return os.open(tar, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
