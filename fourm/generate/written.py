"""Which files of a folder an earlier call wrote, so that the next one leaves none of them beside its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fourm.files import publish

LIST = ".written.json"
"""Name of a file -> sha256 of what was written."""


def replace_written(paths: Sequence[Path]) -> None:
    """Remove what an earlier call listed and this one has not written anew, and list what this one wrote.

    What has been changed since stays, as does everything that no call wrote.

    Args:
        paths: the files that were written, all in one folder.
    """
    folder = paths[0].parent
    written = {path.name: _digest(path) for path in paths}
    listed = _listed(folder)
    # Names are those of the folder: a list leads nowhere else, whatever is in it.
    for path in list(folder.iterdir()):
        is_old = path.name in listed and path.name not in written and path.is_file() and not path.is_symlink()
        if is_old and listed[path.name] == _digest(path):
            path.unlink()
    publish(folder / LIST, json.dumps(written, indent=1) + "\n")


def _listed(folder: Path) -> dict[str, str]:
    try:
        listed = json.loads((folder / LIST).read_text())
    except (OSError, ValueError):  # none, or not one of ours
        return {}
    return listed if isinstance(listed, dict) else {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
