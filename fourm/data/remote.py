"""Files at URLs, by fsspec: `s3://`, `gs://`, `hf://`, `https://`, `memory://`, `file://` and what else it knows."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from fourm.errors import ConfigError, FourmError, StorageError, did_you_mean

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WAITS = (0.5, 2.0, 8.0)  # seconds before each further try
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, FourmError)


def is_url(name: str) -> bool:
    """Whether a name begins with a protocol."""
    return _URL.match(name) is not None


def attempt(action: Callable[[], T], what: str, passing: Collection[int] | None = None) -> T:
    """What an action gives that may fail for a moment, as networks do: it is tried again a few times, and told.

    Args:
        action: what to do.
        what: `read s3://...`, for errors.
        passing: numbers of the errors of the operating system that may pass; None: all may, but for those below.

    Raises:
        OSError: for what trying again does not help: a missing file, or one that may not be read.
        StorageError: if it failed each time.
    """
    for wait in (*_WAITS, None):
        try:
            return action()
        except _FINAL:
            raise
        except Exception as error:  # every protocol has its own classes
            if passing is not None and getattr(error, "errno", None) not in passing:
                raise
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            if wait is None:
                raise StorageError(
                    f"cannot {what}, tried {len(_WAITS) + 1} times: {reason}. Check the address and the network; the "
                    "same command goes on from here"
                ) from error
            _LOG.warning("cannot %s: %s; trying again in %g s", what, reason, wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        ConfigError: for an unknown protocol, or one whose package is not installed.
        StorageError: if it cannot be reached.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations, registry

    protocol = url.partition("://")[0]
    if protocol not in known_implementations and protocol not in registry:
        raise ConfigError(f"{url}: protocol '{protocol}' is not known.{did_you_mean(protocol, known_implementations)}")

    def connect() -> tuple[Any, str]:
        try:
            found, path = url_to_fs(url)
        except ImportError as error:
            package = known_implementations[protocol]["class"].partition(".")[0]
            raise ConfigError(
                f"{url} needs the package '{package}', which is not installed ({error}). Install it with: pip install "
                f"{package}"
            ) from None
        return found, path

    return attempt(connect, f"open {url}")


class RemoteFile(io.RawIOBase):
    """A file at a URL, read from its beginning to its end. A broken connection is made again where it broke.

    Args:
        url: where it is.

    Raises:
        OSError: if it is not there or may not be read.
        StorageError: if it cannot be read, in several tries.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._path = filesystem(url)
        self._position = 0
        self._file: Any = None
        attempt(self._open, f"read {url}")

    def _open(self) -> None:
        self._file = self._system.open(self._path, "rb")
        if self._position:
            self._file.seek(self._position)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = attempt(lambda: self._read(len(buffer)), f"read {self.url}")
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._open()
            data: bytes = self._file.read(size)
        except Exception:
            self._drop()
            raise
        self._position += len(data)
        return data

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception as error:  # of a connection that is broken already
                _LOG.debug("closing %s: %s", self.url, error)

    def close(self) -> None:
        self._drop()
        super().close()
