"""The index beside each tar: its keys, where each file starts, so that any sample is one read, and checksums.

What reads samples never computes checksums; `fourm prepare verify` does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data.files import publish
from fourm.errors import DataError

logger = logging.getLogger(__name__)

VERSION = 2
HEADER_BYTES = 4096


@dataclass(frozen=True)
class ShardHeader:
    """What is known of a shard without reading its list of keys.

    Args:
        num_samples: samples in the tar.
        extension: of all its members, without a dot.
        tar_bytes: size of the tar this index belongs to.
        keys_digest: hash of the keys in their order; equal digests mean aligned shards.
        content_digest: hash of the checksums of all members; empty where there are none.
        made_from: of tokens, the `content_digest` of what they were made from; empty where that is not known.
    """

    num_samples: int
    extension: str
    tar_bytes: int
    keys_digest: str
    content_digest: str = ""
    made_from: str = ""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Keys and byte ranges of one tar, in the order of the tar.

    Args:
        header: the rest of what is known.
        keys: of its members.
        offsets: where the content of each starts.
        sizes: bytes of each.
        checksums: CRC-32 of each, as of when the tar was written; empty for tars of other tools.
    """

    header: ShardHeader
    keys: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint32]

    @classmethod
    def of(
        cls,
        keys: list[str],
        extension: str,
        offsets: Sequence[int],
        sizes: Sequence[int],
        tar_bytes: int,
        checksums: Sequence[int] = (),
        made_from: str = "",
    ) -> ShardIndex:
        lists = np.asarray(offsets, np.int64), np.asarray(sizes, np.int64), np.asarray(checksums, np.uint32)
        content = hashlib.blake2b(lists[2].tobytes(), digest_size=16).hexdigest() if len(checksums) else ""
        header = ShardHeader(len(keys), extension, tar_bytes, keys_digest(keys), content, made_from)
        return cls(header, keys, *lists)

    def to_json(self) -> bytes:
        """One JSON object; all but the lists is on the first line, so that `read_header` need not parse the rest."""
        head = {"version": VERSION, **vars(self.header)}
        lists = {
            "keys": self.keys,
            "offsets": self.offsets.tolist(),
            "sizes": self.sizes.tolist(),
            "checksums": self.checksums.tolist(),
        }
        lines = [_json(head)[:-1]] + [f'"{name}":{_json(values)}' for name, values in lists.items()]
        return (",\n".join(lines) + "}\n").encode()

    def describes_same(self, other: ShardIndex) -> bool:
        """Whether two indexes have the same keys at the same bytes of a tar of the same size."""
        same = self.header.tar_bytes == other.header.tar_bytes and self.keys == other.keys
        return same and np.array_equal(self.offsets, other.offsets) and np.array_equal(self.sizes, other.sizes)

    def member(self, row: int) -> tuple[list[str], list[int], list[int]]:
        """Key, offset and size of a member; nothing if there are fewer."""
        one = slice(row, row + 1)
        return self.keys[one], self.offsets[one].tolist(), self.sizes[one].tolist()

    def holds(self, row: int, block: bytes) -> bool:
        """Whether these bytes are the tar header of member `row`, as nearly all writers make it, and its content.

        False says little: long names and those outside ASCII are written in several ways.
        """
        name = f"{self.keys[row]}.".encode()
        named = block.startswith((name, b"./" + name))
        return named and block[124:135] == b"%011o" % (len(block) - tarfile.BLOCKSIZE)

    @classmethod
    def from_json(cls, content: bytes) -> ShardIndex | None:
        """The index, or None if the content is not one of this version."""
        try:
            facts = json.loads(content)
            keys, offsets, sizes = facts["keys"], facts["offsets"], facts["sizes"]
            checksums = facts.get("checksums", ())
            fits = len(keys) == len(offsets) == len(sizes) and len(checksums) in (0, len(keys))
            if facts["version"] != VERSION or not fits:
                return None
            made_from = facts.get("made_from", "")
            return cls.of(keys, facts["extension"], offsets, sizes, facts["tar_bytes"], checksums, made_from)
        except (ValueError, KeyError, TypeError, OverflowError):
            return None


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def index_path(tar: Path) -> Path:
    """Where the index of a tar is: `shard-00000.index.json` beside `shard-00000.tar`."""
    return tar.with_name(f"{tar.name.removesuffix('.tar')}.index.json")


def keys_digest(keys: Sequence[str]) -> str:
    """A hash of keys and their order."""
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=16).hexdigest()


def read_header(tar: Path) -> ShardHeader:
    """The header of a tar's index; the index is built first if there is none of this tar.

    Raises:
        DataError: if the tar is missing, truncated or not a tar.
    """
    start, size = _read_current(tar, HEADER_BYTES)
    header = header_from_json(start)
    return header if header is not None and header.tar_bytes == size else load_index(tar).header


def header_from_json(start: bytes) -> ShardHeader | None:
    """The header of an index of this version from its first `HEADER_BYTES`; None if it is not one."""
    try:
        facts: dict[str, Any] = json.loads(start.split(b"\n", 1)[0].rstrip().rstrip(b",") + b"}")
        return ShardHeader(**facts) if facts.pop("version") == VERSION else None
    except (ValueError, KeyError, TypeError):
        return None


def _read_current(tar: Path, most: int = -1) -> tuple[bytes, int]:
    """The first bytes of the index beside `tar`, none if it is missing or older than the tar; and the tar's size."""
    stat = _stat(tar)
    try:
        with index_path(tar).open("rb") as file:
            return file.read(most) if os.fstat(file.fileno()).st_mtime_ns >= stat.st_mtime_ns else b"", stat.st_size
    except OSError:
        return b"", stat.st_size


def load_index(tar: Path) -> ShardIndex:
    """The index of a tar.

    If it is missing or outdated it is built by scanning the tar, and kept beside it where the folder is writable. A
    copy may have a tar that is newer than its index: it is scanned once, and the checksums are kept if all else agrees.

    Raises:
        DataError: if the tar is missing, truncated or not a tar.
    """
    content, size = _read_current(tar)
    index = ShardIndex.from_json(content)
    if index is not None and index.header.tar_bytes == size:
        return index
    index, before = scan_tar(tar), stored_index(tar)
    index = before if before is not None and before.describes_same(index) else index
    try:
        publish(index_path(tar), index.to_json())
    except DataError as error:
        logger.info("the index of %s is kept in memory only: %s", tar, error)
    return index


def stored_index(tar: Path) -> ShardIndex | None:
    """The index beside a tar as it is, whatever it says of the tar; None if there is none of this version."""
    try:
        return ShardIndex.from_json(index_path(tar).read_bytes())
    except OSError:
        return None


def _stat(tar: Path) -> os.stat_result:
    try:
        return tar.stat()
    except OSError as error:
        raise _unreadable(tar, error) from error


def _unreadable(tar: Path, error: OSError) -> DataError:
    return DataError(f"cannot read shard {tar}: {error.strerror or error}. Check data.*.path, or make the shard again")


def scan_tar(tar: Path) -> ShardIndex:
    """Build the index of any tar whose members are `<key>.<ext>`, by reading its headers.

    Raises:
        DataError: if the tar is truncated, not a tar, or holds several members per key.
    """
    size = _stat(tar).st_size
    keys: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    extensions: set[str] = set()
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isfile() and not Path(member.name).name.startswith("."):
                    key, extension = split_member(member.name)
                    keys.append(key)
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
                    extensions.add(extension)
            end = archive.offset
        with tar.open("rb") as file:
            file.seek(end)
            mark = file.read(tarfile.BLOCKSIZE)
    except tarfile.TarError as error:
        raise _damaged(tar, f"{error}, after {len(keys)} samples") from error
    except OSError as error:
        raise _unreadable(tar, error) from error
    if len(mark) < tarfile.BLOCKSIZE:
        raise _damaged(tar, f"it ends at byte {size} without an end mark, after {len(keys)} samples")
    if mark.strip(b"\0"):  # the library takes a damaged header for the end
        raise _damaged(tar, f"at byte {end} is neither a member nor an end mark, after {len(keys)} samples")
    if len(set(keys)) != len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise DataError(
            f"shard {tar} holds key '{twice}' more than once (extensions: {', '.join(sorted(extensions))}). "
            "Each source needs its own tar with one file per key: split it into one folder per modality"
        )
    return ShardIndex.of(keys, sorted(extensions)[0] if len(extensions) == 1 else "", offsets, sizes, size)


def split_member(name: str) -> tuple[str, str]:
    """Key and extension of a member; as in webdataset, the extension starts at the first dot of the file name."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _damaged(tar: Path, reason: str) -> DataError:
    return DataError(
        f"shard {tar} is truncated or not a tar ({reason}). Remove it and its index and make it again (or "
        f"download it again)"
    )
