"""What the published layout holds beyond the weights in use, kept beside a converted network for the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from fourm.convert import checkpoints
from fourm.convert.load import Loaded
from fourm.convert.published import CONFIG_FILE, read_table
from fourm.convert.rules import Imported
from fourm.errors import CheckpointError
from fourm.files import publish, replacing

SIDE_FOLDER = "published"
"""Inside a converted folder: what the published layout holds beyond the weights in use."""
_KEPT_FILE = "kept.safetensors"


class Side(NamedTuple):
    """The published config, and what was not taken over; see `Imported`."""

    config: dict[str, Any]
    imported: Imported


def write_side(out: Path, loaded: Loaded) -> None:
    """Keep what the published layout has and ours has not, for the way back."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    found, folder = loaded.imported, out / SIDE_FOLDER
    notes = {"absent": json.dumps(found.absent), "dtypes": json.dumps(found.dtypes)}
    source = checkpoints.find(loaded.published.source)
    try:
        with replacing(folder / _KEPT_FILE) as path:
            save_file({name: tensor.contiguous() for name, tensor in found.kept.items()}, path, metadata=notes)
        publish(folder / CONFIG_FILE, json.dumps(loaded.published.config, indent=1, default=str) + "\n")
        publish(folder / checkpoints.SOURCE_FILE, (source.repository if source else "") + "\n")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}. Free space or choose another folder") from error


def read_side(folder: Path) -> Side | None:
    """What was kept beside a network; None if it was not converted.

    Raises:
        CheckpointError: if it is damaged.
    """
    from safetensors import safe_open

    side = folder / SIDE_FOLDER
    if not (side / CONFIG_FILE).is_file():
        return None
    try:
        with safe_open(side / _KEPT_FILE, framework="pt") as file:
            notes = file.metadata() or {}
            kept = {name: file.get_tensor(name) for name in list(file.keys())}
        found = Imported({}, kept, json.loads(notes["absent"]), json.loads(notes["dtypes"]))
    except Exception as error:
        raise CheckpointError(f"{side} is damaged: {error}. Convert the published checkpoint again") from None
    return Side(read_table(side / CONFIG_FILE), found)
