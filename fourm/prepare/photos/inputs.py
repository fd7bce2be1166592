"""Where photographs come from: pieces, each of which becomes one shard."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from fourm.data.folder import walk
from fourm.errors import DataError
from fourm.prepare.photos.names import beside, check_template, safe_key, split

_LARGEST = 2**30
# Endings of files that often lie among photographs. They are looked into too, but do not fill shards.
_NO_IMAGES = frozenset(
    {
        *(
            "txt",
            "md",
            "html",
            "pdf",
            "svg",
            "json",
            "jsonl",
            "csv",
            "tsv",
            "xml",
            "yaml",
            "yml",
            "ini",
            "py",
            "dat",
            "db",
        ),
        *("mp3", "ogg", "wav", "mp4", "mov", "avi", "mkv", "zip", "tar", "gz", "npy", "npz", "pkl"),
    }
)

Piece = dict[str, Any]
"""What becomes one shard, in plain values that JSON holds: what `Inputs.read` needs to find its files."""


@dataclass(frozen=True)
class Item:
    """One file of the user's that may be a photograph.

    Args:
        file: its name within the input, as reports give it.
        key: of the sample it becomes.
        data: its bytes.
        beside: the user's other files that go with it: template -> content.
        reason: why it cannot be taken, where that is known before it is decoded.
    """

    file: str
    key: str
    data: bytes = b""
    beside: dict[str, bytes] = field(default_factory=dict)
    reason: str = ""


class Inputs(Protocol):
    """A collection of photographs."""

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        """All pieces in order. The same collection gives the same pieces.

        Args:
            known: those of an earlier run, which come first as they are; what is new follows in pieces of its own.
        """

    def size(self, piece: Piece) -> int | None:
        """Files in a piece; None where only reading it tells."""

    def read(self, piece: Piece) -> Iterator[Item]:
        """The files of a piece in order."""


class FolderInputs:
    """All files below a folder, but for hidden ones and those that belong to photographs.

    Args:
        root: the folder.
        templates: of files that labelers read beside the photographs.
        shard_size: photographs per piece.

    Raises:
        ConfigError: for a template without a place.
        DataError: if the folder does not exist.
    """

    def __init__(self, root: Path, templates: Sequence[str], shard_size: int) -> None:
        for template in templates:
            check_template(template)
        if not root.is_dir():
            raise DataError(f"there is no folder {root} with photographs; it is relative to where the command runs")
        self.root = root
        self.templates = templates
        self.shard_size = shard_size

    def size(self, piece: Piece) -> int | None:
        return len(piece["files"])

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        yield from known
        before = {file for piece in known for file in piece["files"]}
        files = [path.relative_to(self.root).as_posix() for path in walk(self.root)]
        if not files and not known:
            raise DataError(f"{self.root} holds no files; expected photographs in it or in its subfolders")
        labels = {beside(template, split(file)[0]) for file in files for template in self.templates}
        photos = sorted({*files} - labels - before, key=lambda file: (split(file)[0], file))
        groups = (list(group) for _, group in groupby(photos, key=lambda file: split(file)[0]))
        chosen: list[str] = []
        num_images = 0
        for group in groups:  # of files that differ in their endings only, of which one can become the sample
            is_image = any(split(file)[1].lower() not in _NO_IMAGES for file in group)
            if num_images + is_image > self.shard_size:
                yield {"files": chosen}
                chosen, num_images = [], 0
            chosen += group
            num_images += is_image
        if chosen:
            yield {"files": chosen}

    def read(self, piece: Piece) -> Iterator[Item]:
        for file in piece["files"]:
            path = split(file)[0]
            try:
                yield Item(file, safe_key(path), _content(self.root / file), self._beside(path))
            except OSError as error:
                yield Item(file, safe_key(path), reason=f"cannot be read: {error.strerror or error}")

    def _beside(self, path: str) -> dict[str, bytes]:
        files = {template: self.root / beside(template, path) for template in self.templates}
        return {template: _content(file) for template, file in files.items() if file.exists()}


def _content(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        OSError: if it is no file that can be read as a whole.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise OSError("it is not a regular file")
    if state.st_size > _LARGEST:
        raise OSError(f"its {state.st_size:,} bytes are too many for one photograph")
    return path.read_bytes()
