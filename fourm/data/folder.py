"""The simple form of data: one file per sample and source, `root/<source>/<class>/<stem>.<ext>`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fourm.data.alignment import check_same
from fourm.data.index import keys_digest
from fourm.data.paths import source_folder
from fourm.data.shards import FACTS_FILE
from fourm.errors import DataError


class AlignedFolders:
    """Folders of several sources with the same stems.

    The public 4M code compares only the numbers of files; here their names must match.

    Args:
        root: the folder that holds the sources.
        sources: folders to read. Files may lie in class folders or directly in the source.

    Raises:
        DataError: if a folder is missing or empty, or the stems differ.
    """

    def __init__(self, root: str | Path, sources: Iterable[str]) -> None:
        self.name = str(root)
        self.files = {source: _files(source_folder(Path(root), source)) for source in sources}
        if not self.files:
            raise DataError(f"no sources to read in {self.name}: the recipe lists no modalities for it")
        stems = {source: list(files) for source, files in self.files.items()}
        check_same(
            f"files in {self.name}", stems, "Add the missing file, or remove its counterpart from the other sources"
        )
        self.stems = next(iter(stems.values()))

    @property
    def shard_sizes(self) -> list[int]:
        """All files are read one by one, so that they can be shuffled as one piece."""
        return [len(self.stems)] if self.stems else []

    def __len__(self) -> int:
        return len(self.stems)

    def key(self, n: int) -> str:
        """The key of sample n: `<class>/<stem>`."""
        return self.stems[n]

    def keys_digest(self, shard: int) -> str:
        """The hash of all keys, in order: they are one piece."""
        return keys_digest(self.stems)

    def content_digest(self, shard: int) -> str:
        """Not known without reading all files."""
        return ""

    def where(self, n: int, source: str | None = None) -> str:
        """The file of sample n, for errors."""
        return str(self._path(n, source) if source else Path(self.name, "*", self.stems[n]))

    def _path(self, n: int, source: str) -> Path:
        return Path(self.name, source, self.files[source][self.stems[n]])

    def read(self, n: int) -> dict[str, bytes]:
        """The encoded files of sample n, by source.

        Raises:
            DataError: if a file cannot be read.
        """
        return {source: self.read_file(n, source) for source in self.files}

    def read_file(self, n: int, source: str) -> bytes:
        """The encoded file of sample n in one source.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            return self._path(n, source).read_bytes()
        except OSError as error:
            raise _gone(error) from error

    def state(self, n: int, source: str) -> tuple[int, int]:
        """Size of a file in bytes, and when it last changed or another one took its place, in nanoseconds.

        Raises:
            DataError: if the file is not there.
        """
        path = self._path(n, source)
        try:
            file, link = path.stat(), path.lstat()
        except OSError as error:
            raise _gone(error) from error
        return file.st_size, max(file.st_mtime_ns, file.st_ctime_ns, link.st_ctime_ns)


def _gone(error: OSError) -> DataError:
    return DataError(
        f"cannot read {error.filename}: {error.strerror}. The folder changed since it was listed: start again"
    )


def _files(folder: Path) -> dict[str, str]:
    """Relative file names by `<class>/<stem>`, sorted.

    Hidden files, the facts of a source and shards are not samples.
    """
    found: dict[str, str] = {}
    for path in walk(folder):
        relative = path.relative_to(folder)
        if relative == Path(FACTS_FILE) or path.name.endswith((".tar", ".index.json")):
            continue
        stem = relative.with_name(path.name.partition(".")[0]).as_posix()
        if stem in found:
            raise DataError(f"{folder} holds both {found[stem]} and {relative} for sample '{stem}'. Remove one of them")
        found[stem] = relative.as_posix()
    return dict(sorted(found.items()))


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files that are not hidden, also those in linked folders; a link back to a folder above it is passed over."""
    here = folder.resolve()
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if _is_folder(entry):
                yield from walk(path, (*above, here))
            else:
                yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle: it is told where it is read
        return False
