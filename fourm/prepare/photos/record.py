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
from fourm.files import temporary_name
from fourm.prepare.photos.inputs import Piece

FOLDER = ".prepare"
REJECTED = "rejected.jsonl"


@dataclass(frozen=True)
class Rejected:
    """A file that is not in the data set.

    Args:
        file: its name within the input.
        reason: why, in words.
        by: who found out: `input`, `image`, or the label that could not be made.
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
        num_inputs: files that went into it.
        num_samples: samples that came out.
        keys_digest: of their keys.
        sources: folders it was made for.
        rejected: the files that were left out.
    """

    num_inputs: int
    num_samples: int
    keys_digest: str
    sources: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def labels_failed(self) -> bool:
        """Whether a label rejected a photograph that could be read."""
        return any(entry.by not in ("input", "image") for entry in self.rejected)


def save_record(out: Path, shard: int, record: Record) -> None:
    """Publish what is known of a shard; before its tars, so that these count only with it.

    Raises:
        DataError: if it cannot be written.
    """
    publish(_record_path(out, shard), json.dumps(asdict(record), sort_keys=True).encode() + b"\n")


def remove_record_leftovers(out: Path, shard: int) -> None:
    """Remove what a process that was killed left of the record of a shard."""
    path = _record_path(out, shard)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


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

    Args:
        out: folder of the data set.
        pieces: gives all pieces, those of an earlier run first.

    Raises:
        DataError: if they cannot be read or written.
    """
    path = _pieces_path(out)
    known = _load_pieces(path)
    now = list(pieces(known or []))
    if now == known:
        return now
    content = "".join(json.dumps(piece) + "\n" for piece in now).encode()
    if known is not None:
        publish(path, content)
        return now
    return _publish_first(path, content)


def _publish_first(path: Path, content: bytes) -> list[Piece]:
    """Write the pieces, unless another machine that started together with this one just did: the first one counts."""
    temporary = temporary_name(path)
    publish(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    found = _load_pieces(path)
    assert found is not None
    return found


def _load_pieces(path: Path) -> list[Piece] | None:
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Restore it, or choose another output folder") from None


def _pieces_path(out: Path) -> Path:
    return out / FOLDER / "inputs.jsonl"
