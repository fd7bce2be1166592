"""A folder that never holds more than so many bytes of tars, whatever number of processes fill it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fourm.data.files import write_error
from fourm.errors import ConfigError
from fourm.files import temporary_name

_LOG = logging.getLogger(__name__)
_GIB = 2**30
_LOOK_SECONDS = 0.1


class Room:
    """The bound on a folder's tars, `*/*/*.tar`, and on what is being fetched into it.

    What is being fetched counts with the size that it will have, and is locked by whoever fetches it: without a lock,
    a killed process has left it.

    Args:
        root: the folder.
        gib: the bound.
    """

    def __init__(self, root: Path, gib: float) -> None:
        self.root, self.gib, self.limit = root, gib, int(gib * _GIB)
        self._waited = False

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_waited": False}

    def filled(self, tar: Path, size: int, fill: Callable[[BinaryIO], None]) -> int:
        """Put a tar into the folder, and remove those that were opened longest ago where it needs their room.

        Where other processes are fetching what fills the folder, it waits for them.

        Args:
            tar: its path.
            size: its bytes.
            fill: writes them.

        Returns:
            a descriptor to read from.

        Raises:
            ConfigError: if it is larger than the folder may be.
            DataError: if it cannot be written, or as `fill` does; nothing of it stays.
        """
        if size > self.limit:
            raise ConfigError(
                f"data.cache.gib is {self.gib:g}, and one shard alone has {size / _GIB:.2f} GiB: raise it"
            )
        temporary, handle = temporary_name(tar), -1
        try:
            handle = self._reserve(temporary, size)
            with os.fdopen(os.dup(handle), "wb") as file:
                fill(file)
            os.fsync(handle)
            temporary.replace(tar)
            return handle
        except BaseException as error:
            if handle >= 0:
                os.close(handle)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise write_error(tar, error) from error
            raise

    def _reserve(self, temporary: Path, size: int) -> int:
        """A locked file of some size, once there is room for it."""
        temporary.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with locked(self.root / ".room.lock"):
                if self._make_room(size):
                    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                    _lock(handle)
                    os.truncate(handle, size)
                    return handle
            if not self._waited:
                self._waited = True
                _LOG.warning(
                    "waiting for room in %s: data.cache.gib (%g) is about what is fetched at a time; raise it",
                    self.root,
                    self.gib,
                )
            time.sleep(_LOOK_SECONDS)

    def _make_room(self, size: int) -> bool:
        """Remove the tars that were opened longest ago until another one fits; whether it does."""
        used = sum(_size(file) for file in self.root.glob("*/*/.*.tar.*.tmp") if not _remove_leftover(file))
        there = []
        for tar in self.root.glob("*/*/*.tar"):
            with contextlib.suppress(FileNotFoundError):
                stat = tar.stat()
                there.append((stat.st_mtime_ns, stat.st_size, tar))
        if used + size > self.limit:
            return False
        used += sum(bytes_ for _, bytes_, _ in there)
        for _, bytes_, tar in sorted(there):
            if used + size <= self.limit:
                break
            tar.unlink(missing_ok=True)  # who reads it keeps it until then
            used -= bytes_
        return True


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _remove_leftover(file: Path) -> bool:
    """Delete what a killed process was fetching; whether it was that."""
    try:
        handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # it has its name now
        return True
    try:
        if _lock(handle):
            file.unlink(missing_ok=True)
            return True
        return False
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed, also by the death of its process; whether nobody else has."""
    try:
        import fcntl
    except ImportError:  # of Windows: nothing is known of others
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine, where the system has locks."""
    try:
        import fcntl
    except ImportError:  # of Windows: two processes may then fetch the same
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a process forked meanwhile has it open, too
        os.close(handle)
