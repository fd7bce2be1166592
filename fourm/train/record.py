"""The record of a checkpoint: all but its tensors, and the size of every file, which tells damaged ones."""

from __future__ import annotations

import json
from typing import Any

from fourm.errors import CheckpointError
from fourm.train.remote import Place

RECORD = "state.json"
VERSION = 1


class DamagedRecordError(CheckpointError):
    """A record is there, but not one."""


def read_record(path: Place) -> dict[str, Any]:
    """Everything of a checkpoint but the tensors.

    Raises:
        CheckpointError: if it is missing, damaged, may not be read, or is of another format version.
        StorageError: if its storage does not answer.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedRecordError(f"{path / RECORD} is damaged: {error}. Go on from another checkpoint") from None
    if not isinstance(record, dict) or not isinstance(record.get("files", {}), dict):
        raise DamagedRecordError(f"{path / RECORD} is not the record of a checkpoint. Go on from another one")
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {record.get('version')}; this version of fourm reads {VERSION}. Go on with "
            "the version that wrote it, or choose another output folder"
        )
    return record


def damage(path: Place) -> str | None:
    """What is wrong with a checkpoint folder; None if it is complete.

    Raises:
        CheckpointError: if that cannot be told: it may not be read, or is of another format version.
        StorageError: if its storage does not answer.
    """
    try:
        if not (path / RECORD).is_file():
            return f"{RECORD} is missing"
        for name, size in read_record(path).get("files", {}).items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
    except DamagedRecordError as error:
        return str(error)
    except OSError as error:
        raise _unreadable(path, error) from error
    return None


def _unreadable(path: Place, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read, so that nobody knows whether it is complete: {error}. Mend the access to it, or "
        "remove it to go on from an earlier one"
    )
