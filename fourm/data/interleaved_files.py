"""Where documents of text and images come from: files of lines with an index beside them, or aligned data."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fourm.data import decode as decoding
from fourm.data.index import load_index, split_member
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_parts import Image, Part, Text
from fourm.data.interleaved_readers import read_line
from fourm.data.source import Source
from fourm.errors import DataError
from fourm.files import publish
from fourm.modality import Modality


class Documents(Protocol):
    """Documents and their images, by file and number."""

    @property
    def sizes(self) -> Sequence[int]:
        """Documents of each file."""

    def read(self, file: int, n: int) -> list[Part]:
        """A document."""

    def image(self, image: Image) -> bytes:
        """The encoded file of an image."""

    def where(self, file: int, n: int) -> str:
        """The place of a document, for errors."""

    def lengths_path(self, file: int) -> Path | None:
        """Where the lengths of its documents may be kept; None: nowhere."""

    def stamp(self, file: int) -> list[int]:
        """Numbers that change with the file."""


class LineDocuments:
    """Files of one document a line, and images by name.

    Args:
        path: a file, or a folder whose files `*.jsonl` (for texts `*.txt` too) are read in the order of their names.
        config: form of the lines; where images are.

    Raises:
        DataError: if there are no files.
    """

    def __init__(self, path: str, config: InterleavedConfig) -> None:
        place = Path(path)
        suffixes = (".jsonl", ".txt") if config.reader == "text" else (".jsonl",)
        found = sorted(p for p in place.rglob("*") if p.suffix in suffixes) if place.is_dir() else [place]
        if not found or not found[0].is_file():
            raise DataError(
                f"no documents at {place}: expected a file {' or '.join(f'*{s}' for s in suffixes)}, or a folder of "
                "some. Make them with `fourm prepare documents`, or correct the path"
            )
        self.config, self.files = config, [Lines(file) for file in found]
        self.root = Path(config.images) if config.images is not None else place if place.is_dir() else place.parent

    @property
    def sizes(self) -> list[int]:
        """Documents of each file."""
        return [len(file) for file in self.files]

    def read(self, file: int, n: int) -> list[Part]:
        """A document.

        Raises:
            DataError: if its line is damaged.
        """
        line = self.files[file].read(n)
        try:
            return read_line(line, self.config)
        except ValueError as error:
            raise DataError(
                f"{self.where(file, n)}: cannot read it as '{self.config.reader}': {error}. Correct packing.reader, or "
                "make this line again"
            ) from None

    def image(self, image: Image) -> bytes:
        """The encoded file of an image.

        Raises:
            DataError: if there is none, or its name leads out of the folder.
        """
        return read_image(self.root, str(image.name))

    def where(self, file: int, n: int) -> str:
        """The place of a document, for errors."""
        return f"{self.files[file].path}, line {n + 1}"

    def lengths_path(self, file: int) -> Path | None:
        """Where the lengths of its documents may be kept."""
        path = self.files[file].path
        return path.with_name(f"{path.name}.lengths")

    def stamp(self, file: int) -> list[int]:
        """Its size, and when it was written."""
        facts = self.files[file].path.stat()
        return [facts.st_size, facts.st_mtime_ns]


class Lines:
    """The lines of a file, by number. Only where they start is kept, in memory and beside the file.

    Args:
        path: the file. Empty lines are lines too, but for the last one.

    Raises:
        DataError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            known = self._known(size)
            self._starts = self._scan() if known is None else known
        except OSError as error:
            raise DataError(f"cannot read documents {path}: {error.strerror}. Check the path") from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def index_path(self) -> Path:
        """The index beside the file."""
        return self.path.with_name(f"{self.path.name}.lines")

    def read(self, n: int) -> bytes:
        """Line n.

        Raises:
            DataError: if the file changed.
        """
        start, end = int(self._starts[n]), int(self._starts[n + 1])
        try:
            with self.path.open("rb") as file:
                line = os.pread(file.fileno(), end - start, start)
        except OSError as error:
            raise DataError(f"cannot read documents {self.path}: {error.strerror}. Check the disk") from error
        if len(line) != end - start or b"\n" in line[:-1]:
            raise DataError(f"{self.path} was changed, but not its index. Remove {self.index_path}: it is made anew")
        return line

    def _known(self, size: int) -> NDArray[np.int64] | None:
        starts = load_numbers(self.index_path)
        fits = starts is not None and len(starts) and starts[-1] == size and (np.diff(starts) > 0).all()
        return starts if fits else None

    def _scan(self) -> NDArray[np.int64]:
        starts = [0]
        with self.path.open("rb") as file:
            for line in file:
                starts.append(starts[-1] + len(line))
        found = np.array(starts, np.int64)
        save_numbers(self.index_path, found)
        return found


class AlignedDocuments:
    """Aligned images and captions: every sample is a document of an image and its text.

    Args:
        source: the data.
        image: folder of images.
        text: the text modality.
        folder: of its texts.
    """

    def __init__(self, source: Source, image: str, text: Modality, folder: str) -> None:
        self.source, self.folder, self.words = source, image, folder
        self.text = replace(text, decode="text")
        self._starts = np.cumsum([0, *source.shard_sizes])

    @property
    def sizes(self) -> Sequence[int]:
        """Documents of each shard."""
        return self.source.shard_sizes

    def read(self, file: int, n: int) -> list[Part]:
        """A document: an image, and its captions to draw from.

        Raises:
            DataError: if the captions are damaged.
        """
        number = int(self._starts[file]) + n
        data = self.source.read_file(number, self.words)
        captions = decoding.decode(data, self.text, lambda: self.source.where(number, self.words))
        return [Image(number, paired=True), Text(captions if isinstance(captions, str) else tuple(captions))]

    def image(self, image: Image) -> bytes:
        """The encoded file of an image."""
        return self.source.read_file(int(image.name), self.folder)

    def where(self, file: int, n: int) -> str:
        """The place of a document, for errors."""
        return self.source.where(int(self._starts[file]) + n)

    def lengths_path(self, file: int) -> Path | None:
        """Nowhere: the files belong to others."""
        return None

    def stamp(self, file: int) -> list[int]:
        """None: nothing is kept of them."""
        return []


def read_image(root: Path, name: str) -> bytes:
    """The file of an image.

    Args:
        root: folder that names begin in.
        name: of a file below it, or of a member of a tar: `rgb/shard-00000.tar/000000.png`.

    Raises:
        DataError: if it cannot be read, or leads out of the folder.
    """
    path = Path(name)
    tar = next((n for n, part in enumerate(path.parts) if part.endswith(".tar")), None)
    file = root / (path if tar is None else Path(*path.parts[: tar + 1]))
    if path.is_absolute() or ".." in path.parts or not _is_below(file, root):
        raise DataError(f"image '{name}' lies outside of {root}, where its data set is. Correct its name")
    try:
        if tar is None:
            return file.read_bytes()
        member = "/".join(path.parts[tar + 1 :])
        offset, size = _members(file).get(split_member(member)[0], (-1, 0))
        if offset < 0:
            raise DataError(f"there is no image '{member}' in {file}. Correct its name, or make the tar again")
        with file.open("rb") as opened:
            return os.pread(opened.fileno(), size, offset)
    except OSError as error:
        raise DataError(
            f"cannot read image '{name}' in {root}: {error.strerror}. Set packing.images to the folder of images, or "
            "data.damaged to skip"
        ) from None


def _is_below(file: Path, root: Path) -> bool:
    """Whether a file is below a folder once links are followed; links of the folder itself are the user's."""
    return file.resolve().is_relative_to(root.resolve())


@lru_cache(maxsize=64)
def _members(tar: Path) -> Mapping[str, tuple[int, int]]:
    """Key -> offset and size of the members of a tar."""
    index = load_index(tar)
    return dict(zip(index.keys, zip(index.offsets.tolist(), index.sizes.tolist())))


def load_numbers(path: Path) -> NDArray[np.int64] | None:
    """(n,) integers of a file; None if it is missing or damaged."""
    try:
        numbers = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return numbers if numbers.ndim == 1 and numbers.dtype == np.int64 else None


def save_numbers(path: Path, numbers: NDArray[np.int64]) -> None:
    """Keep (n,) integers in a file, if the folder can be written to."""
    content = io.BytesIO()
    np.save(content, numbers)
    with contextlib.suppress(OSError):
        publish(path, content.getvalue())
