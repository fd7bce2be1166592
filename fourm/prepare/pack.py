"""`fourm prepare shards`: a collection of files, `ROOT/<modality>/<class>/<stem>.<ext>`, packed into aligned shards."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fourm.data.folder import AlignedFolders
from fourm.data.index import keys_digest, load_index
from fourm.data.shards import ShardWriter, begin_shards, read_source_facts, shard_is_complete, shard_path
from fourm.errors import ConfigError, DataError
from fourm.rng import generator

_LOG = logging.getLogger(__name__)


def pack(root: Path, out: Path, *, sources: Sequence[str] = (), shard_size: int = 1000, seed: int = 0) -> int:
    """Write the files below `root` as shards below `out`. Shards that hold just these files already are skipped.

    Args:
        root: folder with one subfolder per modality; stems match across them.
        out: folder of the shards.
        sources: subfolders to pack; none: all of them.
        shard_size: samples per shard.
        seed: samples are shuffled once, so that every shard holds all classes.

    Returns:
        number of samples.

    Raises:
        ConfigError: if both folders are the same.
        DataError: if there is nothing to pack, stems differ, a subfolder mixes file types, or `out` holds more shards.
    """
    if Path(out).resolve() == Path(root).resolve():
        raise ConfigError(f"the shards cannot be written into the folder they come from ({root}); choose another one")
    files = AlignedFolders(root, sources or _subfolders(Path(root)))
    if not len(files):
        raise DataError(f"there are no files to pack in {root}: expected {root}/<modality>/<class>/<stem>.<ext>")
    extensions = {source: _extension(files, source) for source in files.files}
    order = generator(seed, "pack").permutation(len(files)).tolist()
    facts = {source: read_source_facts(root, source) for source in extensions}
    starts = begin_shards(out, facts, len(files), shard_size)
    for shard, start in enumerate(starts):
        chosen = order[start : start + shard_size]
        if not _holds(out, extensions, shard, files, chosen):
            with ShardWriter(out, shard, extensions) as writer:
                for n in chosen:
                    writer.write(files.key(n), files.read(n))
    _LOG.info("%s: %d samples of %s", out, len(files), ", ".join(extensions))
    return len(files)


def _holds(out: Path, extensions: Mapping[str, str], shard: int, files: AlignedFolders, chosen: Sequence[int]) -> bool:
    """Whether a shard is complete with just these files: some may have come, gone or changed since it was written."""
    if not shard_is_complete(out, extensions, shard, keys_digest([files.key(n) for n in chosen])):
        return False
    for source in extensions:
        tar = shard_path(out, source, shard)
        index, written = load_index(tar), tar.stat().st_mtime_ns
        states = [files.state(n, source) for n in chosen]
        if [size for size, _ in states] != index.sizes.tolist():
            return False
        if max(changed for _, changed in states) > written:
            return False
    return True


def _subfolders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist. It is relative to where the command runs")
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{root} has no subfolders; expected one per modality: {root}/<modality>/<class>/<stem>.<ext>")
    return found


def _extension(files: AlignedFolders, source: str) -> str:
    """The extension all files of a source share."""
    first: dict[str, str] = {}
    for name in files.files[source].values():
        first.setdefault(Path(name).name.partition(".")[2], name)
    if len(first) > 1:
        examples = ", ".join(f"{source}/{name}" for name in first.values())
        raise DataError(f"a shard holds one type of file per modality, but there are {examples}. Convert them to one")
    return next(iter(first))
