"""Documents: sequences of token ids in files, one JSON object per line.

Two forms are read. DeLVM's (InternLM's; Guo et al. 2024): `NAME.bin`, lines `{"tokens": [1, 2, ...]}`, and beside it
`NAME.bin.meta`, a npy of int64 rows (byte offset of the line, number of tokens). LVM's (Bai et al. 2023): `NAME.jsonl`,
lines `{"tokens": "BASE64"}` of little-endian int32, without an index. The first is written.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.errors import DataError
from fourm.files import publish, replacing

Ids = NDArray[np.int64]
SUFFIXES = (".bin", ".jsonl")
_KEY = "tokens"


def meta_path(path: Path) -> Path:
    """The index beside a file of documents."""
    return path.with_name(f"{path.name}.meta")


class DocumentFile:
    """The documents of one file, by number.

    Only the index is kept in memory. Where there is none, the file is read once to make it.

    Args:
        path: `.bin` or `.jsonl`.

    Attributes:
        lengths: (N,) tokens of each document.

    Raises:
        DataError: if the file or its index is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._size = self.path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read documents {self.path}: {error.strerror}. Check the path") from error
        index = self._read_index() if meta_path(self.path).is_file() else self._scan()
        self._ends = np.append(index[1:, 0], self._size)
        self._starts, self.lengths = index[:, 0], index[:, 1]

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, n: int) -> Ids:
        """(length,) int64 ids of document n.

        Raises:
            DataError: if the line is damaged, or has another number of tokens than the index says.
        """
        start, end = int(self._starts[n]), int(self._ends[n])
        try:
            with self.path.open("rb") as file:
                line = os.pread(file.fileno(), end - start, start)
        except OSError as error:
            raise DataError(f"cannot read documents {self.path}: {error.strerror}. Check the disk") from error
        ids = self._parse(line, n)
        if len(ids) != self.lengths[n]:
            raise DataError(
                f"{self.where(n)}: {len(ids)} tokens, but {meta_path(self.path).name} says {int(self.lengths[n])}: the "
                "index is of another file. Remove it, and it is made anew"
            )
        return ids

    def where(self, n: int) -> str:
        """The file and line of document n, for errors."""
        return f"{self.path}, document {n}"

    def _read_index(self) -> Ids:
        path = meta_path(self.path)
        remedy = "Remove it, and it is made anew"
        try:
            index = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is not an index of documents: {error}. {remedy}") from None
        if index.ndim != 2 or index.shape[1] != 2 or index.dtype.kind not in "iu":
            raise DataError(
                f"{path} has shape {index.shape} of {index.dtype}; expected (documents, 2) integers. {remedy}"
            )
        index = index.astype(np.int64)
        offsets = np.append(index[:, 0], self._size)
        if (np.diff(offsets) <= 0).any() or (index < 0).any():
            raise DataError(f"{path} does not fit {self.path.name} of {self._size:,} bytes. {remedy}")
        return index

    def _scan(self) -> Ids:
        rows: list[tuple[int, int]] = []
        start = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    rows.append((start, len(self._parse(line, len(rows)))))
                start += len(line)
        return np.array(rows, np.int64).reshape(-1, 2)

    def _parse(self, line: bytes, n: int) -> Ids:
        try:
            tokens = json.loads(line)[_KEY]
            if isinstance(tokens, str):
                return np.frombuffer(base64.b64decode(tokens, validate=True), "<i4").astype(np.int64)
            ids = np.asarray(tokens)
            if ids.ndim != 1 or (ids.size and ids.dtype.kind != "i"):
                raise ValueError(f"'{_KEY}' holds no list of integers")
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            reason = f"no '{_KEY}'" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f'{self.where(n)}: {reason}; expected a line {{"{_KEY}": [1, 2, ...]}}, or base64 of int32. Make this '
                "file again"
            ) from None
        return ids.astype(np.int64)


def find_documents(path: str | Path) -> list[Path]:
    """The files of documents at a path: itself, or all below it in order of their names.

    Raises:
        DataError: if there are none.
    """
    path = Path(path)
    found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise DataError(
            f"no documents at {path}: expected a file {' or '.join(f'*{s}' for s in SUFFIXES)}, or a folder of some. "
            "Make them with `fourm prepare sentences`, or correct the path"
        )
    return found


class DocumentWriter:
    """Write a file of documents with its index, in DeLVM's form.

    A context manager: both files appear on clean exit, and nothing appears after an error. The same documents give the
    same bytes.

    Args:
        path: ends in `.bin`.

    Raises:
        DataError: if the disk is full or the folder is not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._rows: list[tuple[int, int]] = []
        self._offset = 0

    def __enter__(self) -> DocumentWriter:
        self._publishing = replacing(self.path)
        with self._naming():
            self._file = self._publishing.__enter__().open("wb")
        return self

    def write(self, ids: Sequence[int] | NDArray[Any]) -> None:
        """Add a document of (n,) ids."""
        numbers = np.asarray(ids).tolist()
        line = json.dumps({_KEY: numbers}, separators=(",", ":")).encode() + b"\n"
        with self._naming():
            self._file.write(line)
        self._rows.append((self._offset, len(numbers)))
        self._offset += len(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        index = io.BytesIO()
        np.save(index, np.array(self._rows, np.int64).reshape(-1, 2))
        with self._naming():
            try:
                self._file.close()
                if kind is None:  # before the documents, which are complete when they are there
                    publish(meta_path(self.path), index.getvalue())
            finally:
                self._publishing.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write {self.path}: {error.strerror}. Free space or choose another folder"
            ) from error


def concatenate(documents: Iterable[Ids], num: int) -> Iterable[Ids]:
    """Join every `num` documents into one, as DeLVM's `token_concat` does with pairs; the last may join fewer."""
    waiting: list[Ids] = []
    for ids in documents:
        waiting.append(ids)
        if len(waiting) == num:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
