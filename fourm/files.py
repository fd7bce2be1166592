"""Files that are either complete or absent, also after a kill or a power cut."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, unique to this call, that no reader takes for data."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def is_leftover(temporary: Path) -> bool:
    """Whether a file with a temporary name has no process any more that writes it, as far as this machine knows."""
    pid = temporary.name.removesuffix(".tmp").rpartition(".")[2].partition("-")[0]
    if not pid.isdigit() or int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
        # One that has ended, but that nobody has asked how, still has its number.
        state = Path("/proc", pid, "stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return True
    except OSError:  # of another user
        return False


def leftovers(path: Path) -> list[Path]:
    """The temporary files and folders of `path`, and of nothing else, that no process writes any more."""
    of_path = re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}\.tmp")
    beside = path.parent.glob(f".{glob.escape(path.name)}.*.tmp")
    return [temporary for temporary in beside if of_path.fullmatch(temporary.name) and is_leftover(temporary)]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and vanishes if the block fails.

    Raises:
        OSError: if the folder cannot be made or the file cannot be published.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def publish(path: Path, content: bytes | str) -> None:
    """Write a file; text in UTF-8.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
