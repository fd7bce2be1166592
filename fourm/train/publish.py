"""Folders and files of a run that are either complete or absent, also after a power cut."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourm.errors import CheckpointError, StorageError
from fourm.files import publish, sync

_TEMPORARY = ".tmp-"


def temporary_folder(path: Path) -> Path:
    """A fresh hidden folder beside `path`; the name is fixed, so that what a killed run left is replaced."""
    folder = path.with_name(f"{_TEMPORARY}{path.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove_leftovers(folder: Path) -> None:
    """Delete what killed runs left half-written."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Give a finished folder its name, after its bytes are safe on the disk; what had the name before is replaced."""
    for file in temporary.rglob("*"):
        sync(file)
    sync(temporary)
    if path.exists():
        remove_folder(path)
    temporary.rename(path)
    sync(path.parent)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Publish what `write` puts into the folder it is given.

    Raises:
        CheckpointError: if it cannot be written.
    """
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    try:
        write(temporary_folder(path))
        publish_folder(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder; it loses its name first, so that no reader finds half of it."""
    hidden = path.with_name(f"{_TEMPORARY}old-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file.

    Raises:
        CheckpointError: if it cannot be written.
    """
    try:
        publish(path, json.dumps(value, indent=1, default=str))
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Any, error: BaseException | str, size: int = 0) -> CheckpointError:
    """The user's version of a failed write.

    Args:
        path: what should have been written; a path or something at a URL.
        error: what went wrong.
        size: bytes it needs, if known.
    """
    if isinstance(error, StorageError):
        return StorageError(f"{error}. Nothing incomplete counts as a checkpoint, earlier ones are untouched")
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    space = ""
    with contextlib.suppress(OSError, TypeError):
        free = shutil.disk_usage(path.parent).free
        space = f" ({size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free)" if size else f" ({free / 1e6:.0f} MB free)"
    return CheckpointError(
        f"cannot write {path}: {reason}{space}. Nothing incomplete was left, earlier checkpoints are untouched. "
        "Free disk space, check the permissions or lower train.keep_checkpoints, then run the same command again"
    )
