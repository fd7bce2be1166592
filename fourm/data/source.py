"""Where samples come from: aligned shards, or folders of files, behind one interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from fourm.data.aligned import AlignedShards
from fourm.data.configs import CacheConfig
from fourm.data.folder import AlignedFolders
from fourm.data.paths import is_pattern
from fourm.data.remote import is_url
from fourm.data.shards import num_shards
from fourm.errors import DataError


class Source(Protocol):
    """Aligned files of several sources, addressed by number."""

    @property
    def name(self) -> str:
        """What errors call it: its path."""

    @property
    def shard_sizes(self) -> Sequence[int]:
        """Samples in each piece that is read together; samples are numbered piece by piece."""

    def __len__(self) -> int: ...

    def key(self, n: int) -> str:
        """The key of sample n."""

    def keys_digest(self, shard: int) -> str:
        """What tells the samples of a piece from others: the hash of their keys in order (`index.keys_digest`)."""

    def content_digest(self, shard: int) -> str:
        """What tells the files of a piece from others of the same names; empty where that is not known."""

    def read(self, n: int) -> dict[str, bytes]:
        """The encoded files of sample n, by source."""

    def read_file(self, n: int, source: str) -> bytes:
        """The encoded file of sample n in one source."""

    def where(self, n: int, source: str | None = None) -> str:
        """The file of sample n in `source`, or its files in all sources, for errors."""


def open_source(path: str, sources: Iterable[str], kind: str = "auto", cache: CacheConfig | None = None) -> Source:
    """Open the data at `path`.

    Args:
        path: a folder, a pattern of shards, or a URL of either.
        sources: folders that are needed.
        kind: `shards`, `folder`, or `auto`: shards if a source holds tars, or at a URL.
        cache: of shards at URLs.

    Raises:
        DataError: if something is missing, damaged or not aligned.
    """
    sources = list(dict.fromkeys(sources))
    if kind == "auto":
        are_shards = is_url(path) or is_pattern(path) or any(_has_shards(Path(path), source) for source in sources)
        kind = "shards" if are_shards else "folder"
    if kind == "folder" and is_url(path):
        raise DataError(f"data path {path} is a URL, where shards are read, not folders of files: pack them first")
    return AlignedShards(path, sources, cache) if kind == "shards" else AlignedFolders(path, sources)


def _has_shards(root: Path, source: str) -> bool:
    """Whether a source holds tars, or will once the command that makes it has run to its end."""
    return any((root / source).glob("*.tar")) or num_shards(root, source) > 0
