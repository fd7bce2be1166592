"""Writing data files, with what a user can do where it fails."""

from __future__ import annotations

from pathlib import Path

from fourm import files
from fourm.errors import DataError


def publish(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that the file appears complete or not at all.

    Raises:
        DataError: if the file cannot be written (full disk, no permission).
    """
    try:
        files.publish(path, content)
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> DataError:
    """The user's version of a failed write."""
    return DataError(
        f"cannot write {path}: {error.strerror or error}. Nothing incomplete was left behind; "
        "free disk space or check the permissions of the folder, then run the same command again (finished "
        "shards are kept)"
    )
