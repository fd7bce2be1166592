"""Samples that a label rejected leave all folders of a shard, also where that was interrupted."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from fourm.data.index import ShardIndex, index_path, load_index, read_header
from fourm.data.shards import ShardWriter, shard_path
from fourm.errors import DataError
from fourm.prepare.photos.record import Record


def prune(out: Path, shard: int, record: Record) -> None:
    """Take out of every folder what is not among the samples that a shard has.

    Folders of labels that are not in the recipe, and of tokens, are aligned thus too. One that lacks samples is left
    as it is.

    Args:
        out: folder of the data set.
        shard: number of the shard.
        record: says which samples it has; some folder holds just these.

    Raises:
        DataError: if a tar cannot be read or written.
    """
    too_large = surplus(out, shard, record)
    if not too_large:
        return
    keys = next((load_index(tar).keys for tar in _tars(out, shard) if _digest(tar) == record.keys_digest), None)
    for tar in too_large if keys is not None else ():
        index = load_index(tar)
        if set(index.keys).issuperset(keys or ()):
            _rewrite(out, tar, shard, index, keys or ())


def surplus(out: Path, shard: int, record: Record) -> Sequence[Path]:
    """The tars of a shard that hold more samples than it has."""
    return [tar for tar in _tars(out, shard) if _digest(tar) != record.keys_digest and _size(tar) > record.num_samples]


def _tars(out: Path, shard: int) -> Sequence[Path]:
    with os.scandir(out) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    tars = (shard_path(out, folder, shard) for folder in folders)
    return [tar for tar in tars if index_path(tar).is_file() and tar.is_file()]


def _digest(tar: Path) -> str:
    try:
        return read_header(tar).keys_digest
    except DataError:
        return ""


def _size(tar: Path) -> int:
    try:
        return read_header(tar).num_samples
    except DataError:  # damaged: it is made again, or `verify` names it
        return 0


def _rewrite(out: Path, tar: Path, shard: int, index: ShardIndex, keys: Collection[str]) -> None:
    kept = set(keys)
    source = tar.parent.name
    with tar.open("rb") as file, ShardWriter(out, shard, {source: index.header.extension}) as writer:
        for key, start, size in zip(index.keys, index.offsets.tolist(), index.sizes.tolist()):
            if key in kept:
                writer.write(key, {source: os.pread(file.fileno(), size, start)})
