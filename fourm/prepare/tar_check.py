"""One tar of a source, against its index, its checksums, the other sources, and what its files should hold."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fourm.data.decode import decode
from fourm.data.index import VERSION, ShardIndex, index_path, scan_tar, stored_index
from fourm.data.shards import CROPS
from fourm.data.transforms import is_image
from fourm.errors import DataError
from fourm.prepare.checks import Around, find_faults
from fourm.prepare.sources import StoredSource


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Args:
        tar: the file it is in.
        key: of the sample; None if it is not one sample's.
        source: whose file it is; empty if it is not one source's.
        reason: what is wrong, and where it helps, what to do.
    """

    tar: str
    key: str | None
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.tar}{'' if self.key is None else f', key {self.key!r}'}: {self.reason}"


@dataclass(frozen=True)
class Counts:
    """Files of a source.

    Args:
        samples: that are there.
        num_bytes: of the tars.
        checksums: files whose bytes were compared with their checksum.
    """

    samples: int = 0
    num_bytes: int = 0
    checksums: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Samples:
    """What is known of the samples of a shard by key, from the sources that were read before."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    num_crops: dict[str, int] = field(default_factory=dict)

    def around(self, key: str) -> Around:
        return Around(self.sizes.get(key), self.num_crops.get(key))

    def learn(self, source: StoredSource, key: str, value: Any, is_photograph: bool) -> None:
        if is_photograph:
            self.sizes[key] = value.shape[:2]
        elif source.source == CROPS:
            self.num_crops[key] = len(value)


def scan(source: StoredSource, name: str) -> tuple[ShardIndex | None, list[Problem]]:
    """What a tar holds by its own account, with the checksums of its index; None if it cannot be read.

    Args:
        source: whose tar it is.
        name: of the tar.

    Returns:
        the index, and what is wrong with the tar or the index beside it.
    """
    tar = source.tars[name]
    try:
        index = scan_tar(tar)
    except DataError as error:
        return None, [Problem(str(tar), None, source.source, str(error).removeprefix(f"shard {tar} "))]
    stored = stored_index(tar)
    if stored is None:
        reason = _no_index(index_path(tar), made_here=source.num_shards > 0)
    elif not stored.describes_same(index):
        reason = (
            f"its index describes another tar, {_differs(stored, index)}. Make both again, or remove "
            f"{index_path(tar).name} if the tar is right"
        )
    else:
        return replace(index, checksums=stored.checksums), []
    return index, [Problem(str(tar), None, source.source, reason)] if reason else []


def _no_index(path: Path, *, made_here: bool) -> str:
    """What is wrong where a tar has no index of this version. Those of other tools never had one."""
    try:
        facts = json.loads(path.read_bytes())
        outdated = isinstance(facts, dict) and facts.get("version") in range(1, VERSION)
        return "" if outdated else f"{path.name} is no index. Make this shard again, or remove the file"
    except FileNotFoundError:
        return f"{path.name} is missing, and the checksums with it: the shard may be incomplete" if made_here else ""
    except (OSError, ValueError) as error:
        return f"{path.name} is damaged: {error}. Make this shard again, or remove the file"


def _differs(stored: ShardIndex, found: ShardIndex) -> str:
    if stored.keys == found.keys and stored.header.tar_bytes != found.header.tar_bytes:
        return f"of {stored.header.tar_bytes:,} bytes (this one has {found.header.tar_bytes:,})"
    if stored.keys == found.keys:
        moved = (stored.sizes != found.sizes) | (stored.offsets != found.offsets)
        row = int(moved.argmax())
        files = (f"{index.sizes[row]:,} bytes from byte {index.offsets[row]:,} on" for index in (stored, found))
        return f"whose file '{found.keys[row]}' is {' (in this one it is '.join(files)})"
    place = _first_difference(stored.keys, found.keys)
    here, there = (f"'{keys[place]}'" if place < len(keys) else "no key" for keys in (found.keys, stored.keys))
    return f"with {there} in place {place} instead of {here}"


def _first_difference(a: Sequence[str], b: Sequence[str]) -> int:
    return next((n for n, (x, y) in enumerate(zip_longest(a, b)) if x != y), len(a))


def compare_keys(source: StoredSource, name: str, keys: list[str], expected: list[str], other: str) -> list[Problem]:
    """What differs between the keys of a tar and those it should have.

    Args:
        source: whose tar it is.
        name: of the tar.
        keys: of its members.
        expected: those it should have, in order.
        other: what has these.
    """
    if keys == expected:
        return []
    have, want = set(keys), set(expected)
    reasons: list[tuple[str | None, str]] = []
    if have.isdisjoint(want) and have and want:
        reasons.append(
            (None, f"it holds other samples than {other}: its first key is '{keys[0]}', not '{expected[0]}'")
        )
    else:
        reasons += [(key, f"is missing; {other} has it") for key in expected if key not in have]
        reasons += [(key, f"is not a sample of {other}") for key in keys if key not in want]
        common = [key for key in keys if key in want]
        ordered = [key for key in expected if key in have]
        if common != ordered:
            place = _first_difference(common, ordered)
            reasons.append((common[place], f"comes in another order: {other} has '{ordered[place]}' in its place"))
    return [Problem(str(source.tars[name]), key, source.source, reason) for key, reason in reasons]


def read_files(
    source: StoredSource, name: str, index: ShardIndex, known: Samples, is_photograph: bool
) -> tuple[list[Problem], Counts]:
    """Read all files of a tar: compare their checksums, decode them, and look at what they hold.

    Args:
        source: whose tar it is.
        name: of the tar.
        index: what `scan` found.
        known: of its samples; what this source tells is added.
        is_photograph: whether the other sources have to have its shape.
    """
    tar = source.tars[name]
    problems = []
    num_files = len(index.keys)
    try:
        with tar.open("rb") as file:
            for row in range(num_files):
                data = os.pread(file.fileno(), int(index.sizes[row]), int(index.offsets[row]))
                for reason in _file_faults(source, index, row, data, known, is_photograph):
                    problems.append(Problem(str(tar), index.keys[row], source.source, reason))
    except OSError as error:
        problems.append(Problem(str(tar), None, source.source, f"cannot be read: {error.strerror or error}"))
    return problems, Counts(num_files, index.header.tar_bytes, num_files if index.checksums.size else 0)


def _file_faults(
    source: StoredSource, index: ShardIndex, row: int, data: bytes, known: Samples, is_photograph: bool
) -> Iterator[str]:
    """What is wrong with one file. One whose bytes have changed is not looked at any further."""
    key, modality = index.keys[row], source.modality
    if index.checksums.size and zlib.crc32(data) != index.checksums[row]:
        yield "its bytes are not those that were written: their checksum differs. Make this shard again"
        return
    if modality is None:
        return
    try:
        value = decode(data, modality, lambda: "")
    except DataError as error:
        yield str(error).removeprefix(": ")
        return
    around = known.around(key)
    yield from find_faults(value, modality, data, around if not source.faults else replace(around, num_crops=None))
    known.learn(source, key, value, is_photograph and is_image(modality))
