"""Where a checkpoint comes from: the code's revision and the versions of what it runs on."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("fourm", "torch", "numpy", "timm", "tokenizers")


def provenance() -> dict[str, Any]:
    """Git hash (with `-dirty` when there are uncommitted changes; None outside a checkout) and package versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"git": _git_hash(), "python": platform.python_version(), "packages": versions}


def _git_hash() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None  # installed; a repository around site-packages is not ours
    command = [
        "git",
        "-C",
        str(checkout),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude",
        "*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
