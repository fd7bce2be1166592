"""Files that are either complete or absent."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from fourm.errors import DataError


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, unique to this call, that no reader takes for data."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def publish(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that the file appears complete or not at all.

    Raises:
        DataError: if the file cannot be written (full disk, no permission).
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> DataError:
    """The user's version of a failed write."""
    return DataError(
        f"cannot write {path}: {error.strerror or error}. Nothing incomplete was left behind; "
        "free disk space or check the permissions of the folder, then run the same command again (finished "
        "shards are kept)"
    )
