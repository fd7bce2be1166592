"""What is noted of each shard beside the data: how many photographs it was made of, and which were rejected and why.

It lies in `OUT/.prepare`, where no reader of data looks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fourm.data.files import publish, write_error
from fourm.data.index import index_path, read_header
from fourm.data.shards import shard_path
from fourm.errors import DataError
from fourm.files import is_leftover, temporary_name
from fourm.prepare.photos.inputs import Piece

FOLDER = ".prepare"
REJECTED = "rejected.jsonl"
OTHER = "other"
"""Who leaves out files that are no photographs and do not look like any: texts, sounds, archives."""
UNLABELLED = ("input", "image", OTHER)
"""Who leaves out files before any label is made."""


@dataclass(frozen=True)
class Rejected:
    """A file that is not in the data set.

    Args:
        file: its name within the input.
        reason: why, in words.
        by: who found out: `input`, `image`, `other` for files that do not look like photographs, or the label that
            could not be made.
        shard: of which it would have been a part.
    """

    file: str
    reason: str
    by: str
    shard: int


@dataclass(frozen=True)
class Record:
    """A shard that was made.

    Args:
        num_samples: samples in it.
        keys_digest: of their keys.
        sources: folders it was made for.
        rejected: the files that were left out.
    """

    num_samples: int
    keys_digest: str
    sources: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def labels_failed(self) -> bool:
        """Whether a label rejected a photograph that could be read."""
        return any(entry.by not in UNLABELLED for entry in self.rejected)


def save_record(out: Path, shard: int, record: Record) -> None:
    """Publish what is known of a shard; before its tars, so that these count only with it.

    Raises:
        DataError: if it cannot be written.
    """
    publish(_record_path(out, shard), json.dumps(asdict(record), sort_keys=True).encode() + b"\n")


def remove_record_leftovers(out: Path, shard: int) -> None:
    """Remove what a process that was killed left of the record of a shard."""
    path = _record_path(out, shard)
    for leftover in filter(is_leftover, path.parent.glob(f".{path.name}.*.tmp")):
        leftover.unlink(missing_ok=True)


def forget_record(out: Path, shard: int) -> None:
    """Remove what is known of a shard, which is then made anew."""
    _record_path(out, shard).unlink(missing_ok=True)


def load_record(out: Path, shard: int) -> Record | None:
    """What is known of a shard; None if nothing is."""
    try:
        facts = json.loads(_record_path(out, shard).read_bytes())
        return Record(**{**facts, "sources": tuple(facts["sources"]), "rejected": _entries(facts["rejected"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entries(entries: Iterable[Mapping[str, Any]]) -> tuple[Rejected, ...]:
    return tuple(Rejected(**entry) for entry in entries)


def _record_path(out: Path, shard: int) -> Path:
    return out / FOLDER / "shards" / f"shard-{shard:05d}.json"


def is_complete(out: Path, source: str, shard: int, record: Record) -> bool:
    """Whether a folder holds just the samples that a shard was made with, and the index that comes after them."""
    tar = shard_path(out, source, shard)
    try:
        return index_path(tar).is_file() and read_header(tar).keys_digest == record.keys_digest
    except DataError:
        return False


def merge_rejected(out: Path, num_shards: int) -> list[Rejected]:
    """Publish `OUT/rejected.jsonl`, one line per file that was left out, of the shards that are there.

    Raises:
        DataError: if it cannot be written.
    """
    records = (load_record(out, shard) for shard in range(num_shards))
    entries = [entry for record in records if record for entry in record.rejected]
    lines = [json.dumps(asdict(entry)) + "\n" for entry in entries]
    publish(out / REJECTED, "".join(lines).encode())
    return entries


def keep_pieces(out: Path, pieces: Callable[[list[Piece]], Iterator[Piece]]) -> list[Piece]:
    """The pieces of the input, noted once, so that every run and machine cuts it alike; new ones are added at the end.

    Every addition is a file of its own under the next number, which only one process can make: the others, if they
    have seen another state of the input, read that and look again.

    Args:
        out: folder of the data set.
        pieces: gives all pieces, those of an earlier run first.

    Raises:
        DataError: if they cannot be read or written.
    """
    folder = out / FOLDER / "inputs"
    known: list[Piece] = []
    number = 0
    while True:
        while (path := folder / f"{number:05d}.jsonl").exists():
            known += _load_pieces(path)
            number += 1
        added = list(pieces(known))[len(known) :]
        if not added:
            return known
        if _publish_new(path, "".join(json.dumps(piece) + "\n" for piece in added).encode()):
            return [*known, *added]


def _publish_new(path: Path, content: bytes) -> bool:
    """Write a file, unless another process just did; whether this one wrote it."""
    temporary = temporary_name(path)
    publish(temporary, content)
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _load_pieces(path: Path) -> list[Piece]:
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Restore it, or choose another output folder") from None
