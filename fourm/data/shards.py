"""Shards: one tar per source and shard, published atomically, with an index of byte offsets and checksums beside it.

Layout (4M's, Mizrahi et al. 2023): `ROOT/<source>/shard-00000.tar` with members `<key>.<ext>`, the same keys in the
same order in the tars of all sources. The bytes of a tar depend on its samples only, so the same data always gives the
same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from fourm.data.files import publish, write_error
from fourm.data.index import ShardIndex, index_path, read_header
from fourm.errors import DataError
from fourm.files import is_leftover, temporary_name

FACTS_FILE = "source.json"
NUM_SHARDS = "num_shards"
CROPS = "crop_settings"
IMAGE_SOURCE = "image_source"
"""Fact of stored crops: the folder of the images they were drawn for."""


def shard_path(root: Path, source: str, shard: int) -> Path:
    """Where shard number `shard` of `source` is."""
    return Path(root) / source / f"shard-{shard:05d}.tar"


class ShardWriter:
    """Write one shard of several aligned sources.

    A context manager: the tars appear on clean exit, and nothing appears after an error.

    Args:
        root: folder of the data set.
        shard: number of the shard.
        extensions: source -> extension of its members, without a dot.
        made_from: what identifies the content that these are made from, noted in their indexes.

    Raises:
        DataError: on writing, if the disk is full or the folder is not writable.
    """

    def __init__(self, root: Path, shard: int, extensions: Mapping[str, str], made_from: str = "") -> None:
        self.root = Path(root)
        self.shard = shard
        self.made_from = made_from
        self.tars = {source: _TarFile(shard_path(self.root, source, shard), ext) for source, ext in extensions.items()}

    def __enter__(self) -> ShardWriter:
        try:
            for tar in self.tars.values():
                tar.open()
        except BaseException:
            self.abort()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        else:
            self._publish()

    def write(self, key: str, sample: Mapping[str, bytes]) -> None:
        """Append one sample.

        Args:
            key: its name, without dots.
            sample: source -> encoded bytes, for exactly the sources of this writer.

        Raises:
            DataError: if the key has a dot or begins with a slash, or a source is missing or not expected.
        """
        if not key or "." in key or key.startswith("/"):
            raise DataError(
                f"key '{key}' in {self.root}: keys must not be empty, begin with a slash or contain dots, since the "
                "extension starts at the first dot"
            )
        if sample.keys() != self.tars.keys():
            raise DataError(
                f"sample '{key}' in {self.root} has sources {sorted(sample)}, but the writer was opened for "
                f"{sorted(self.tars)}"
            )
        for source, tar in self.tars.items():
            tar.write(key, sample[source])

    def abort(self) -> None:
        """Remove everything written so far."""
        for tar in self.tars.values():
            tar.discard()

    def _publish(self) -> None:
        try:
            for tar in self.tars.values():
                tar.close()
            # Old indexes go first and new ones come last: at no time does an index describe another tar than the one
            # beside it.
            for tar in self.tars.values():
                index_path(tar.path).unlink(missing_ok=True)
            for tar in self.tars.values():
                tar.temporary.replace(tar.path)
            for tar in self.tars.values():
                publish(index_path(tar.path), tar.index(self.made_from).to_json())
        except OSError as error:
            raise write_error(self.root, error) from error
        finally:
            self.abort()


class _TarFile:
    """One deterministic USTAR file under a temporary name, with the offsets of its members."""

    def __init__(self, path: Path, extension: str) -> None:
        self.path = path
        self.extension = extension.lstrip(".")
        self.temporary = temporary_name(path)
        self.keys: list[str] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.checksums: list[int] = []
        self.position = 0
        self.file: BinaryIO | None = None
        self.opened = 0

    def open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.temporary.open("wb")
            self.opened = os.fstat(self.file.fileno()).st_mtime_ns
        except OSError as error:
            raise write_error(self.path, error) from error

    def write(self, key: str, data: bytes) -> None:
        info = tarfile.TarInfo(f"{key}.{self.extension}")
        info.size = len(data)
        info.mode = 0o644
        try:
            header = info.tobuf(tarfile.USTAR_FORMAT)
        except ValueError as error:
            raise DataError(f"key '{key}' does not fit a tar header ({error}); use a shorter key") from error
        self.keys.append(key)
        self.offsets.append(self.position + len(header))
        self.sizes.append(len(data))
        self.checksums.append(zlib.crc32(data))
        self._append(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def _append(self, data: bytes) -> None:
        assert self.file is not None, "the writer is used as a context manager"
        try:
            self.file.write(data)
        except OSError as error:
            raise write_error(self.path, error) from error
        self.position += len(data)

    def close(self) -> None:
        """End the archive and make it durable, still under its temporary name."""
        end = 2 * tarfile.BLOCKSIZE
        self._append(bytes(end + -(self.position + end) % tarfile.RECORDSIZE))
        assert self.file is not None
        self.file.flush()
        # As old as its first sample: a file that changed while the shard was written is newer than the shard.
        os.utime(self.file.fileno(), ns=(self.opened, self.opened))
        os.fsync(self.file.fileno())
        self.file.close()

    def index(self, made_from: str) -> ShardIndex:
        lists = self.offsets, self.sizes, self.position, self.checksums
        return ShardIndex.of(self.keys, self.extension, *lists, made_from)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            if self.file is not None:
                self.file.close()
            self.temporary.unlink(missing_ok=True)


def remove_leftovers(root: Path, sources: Iterable[str], shard: int) -> None:
    """Remove what a process that was killed left of a shard. For commands whose shards have one writer at a time."""
    for source in sources:
        path = shard_path(root, source, shard)
        for name in (path.name, index_path(path).name):
            for leftover in filter(is_leftover, path.parent.glob(f".{name}.*.tmp")):
                leftover.unlink(missing_ok=True)


def shard_is_complete(root: Path, sources: Iterable[str], shard: int, keys_digest: str | None = None) -> bool:
    """Whether shard number `shard` of all sources is published and aligned.

    Args:
        root: folder of the data set.
        sources: folders; as a mapping source -> extension of its members, these have to be the same too.
        shard: number of the shard.
        keys_digest: of the samples it should have; None: any.
    """
    extensions = sources if isinstance(sources, Mapping) else {}
    digests = set() if keys_digest is None else {keys_digest}
    for source in sources:
        path = shard_path(Path(root), source, shard)
        if not index_path(path).is_file():  # it comes last
            return False
        try:
            header = read_header(path)
        except DataError:
            return False
        if header.extension != extensions.get(source, header.extension).lstrip("."):
            return False
        digests.add(header.keys_digest)
    return len(digests) <= 1


def begin_shards(
    root: Path, facts: Mapping[str, Mapping[str, Any]], num_samples: int, shard_size: int
) -> Sequence[int]:
    """Note in the facts of sources how many shards they will have. Thus a part of them is never taken for all.

    Args:
        root: folder of the data set.
        facts: source -> its other facts.
        num_samples: samples of every source.
        shard_size: samples per shard.

    Returns:
        number of the first sample of each shard.

    Raises:
        DataError: if there are more shards already, or the facts cannot be written.
    """
    starts = range(0, num_samples, shard_size)
    if any(shard_path(root, source, len(starts)).exists() for source in facts):
        raise DataError(
            f"{root} holds more shards than {num_samples} samples in shards of {shard_size} make: it was written from "
            "other files or with other options. Remove it, or choose another folder"
        )
    for source, others in facts.items():
        write_source_facts(root, source, {**others, NUM_SHARDS: len(starts)})
    return starts


def num_shards(root: Path, source: str) -> int:
    """How many shards the facts of a source say it has; 0 if they say nothing of it."""
    number = read_source_facts(root, source).get(NUM_SHARDS)
    return number if isinstance(number, int) else 0


def write_source_facts(root: Path, source: str, facts: Mapping[str, Any]) -> None:
    """Publish `source.json`, the facts of a source as a whole (tokens: `tokenizer_hash`, `modality`, `vocab_size`)."""
    publish(Path(root) / source / FACTS_FILE, json.dumps(dict(facts), indent=1, sort_keys=True).encode() + b"\n")


def read_source_facts(root: Path, source: str) -> dict[str, Any]:
    """The facts of a source; empty if none were written.

    Raises:
        DataError: if `source.json` is not a JSON object.
    """
    path = Path(root) / source / FACTS_FILE
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {error}. Remove it and run the command that wrote this source again"
        ) from error
    if not isinstance(facts, dict):
        raise DataError(
            f"{path} should be a JSON object, got {type(facts).__name__}. Run the command that wrote this source again"
        )
    return facts


def check_tokenizer_hash(root: Path, source: str, expected_hash: str) -> None:
    """Refuse token shards that another tokenizer made.

    Args:
        root: folder of the data set.
        source: folder of the token shards below it.
        expected_hash: hash of the tokenizer the recipe names.

    Raises:
        DataError: if the shards carry no hash or another one.
    """
    found = read_source_facts(root, source).get("tokenizer_hash")
    if found == expected_hash:
        return
    where = Path(root) / source
    if found is None:
        raise DataError(
            f"{where / FACTS_FILE} has no tokenizer_hash, so it is unknown which tokenizer made these tokens: make "
            f"others beside them with `fourm tokenize --source NAME`, and set modality_name_map: {{NAME: {source}}} "
            f"for this data set; or remove {where} and run `fourm tokenize`"
        )
    raise DataError(
        f"{where} holds tokens made with another tokenizer: its hash is {found}, the recipe's tokenizer has "
        f"{expected_hash}. Run `fourm tokenize` with --overwrite, or name in the recipe the tokenizer that made {where}"
    )


def crops_digest(root: Path) -> str | None:
    """What identifies the stored crops of a data set: a hash of their facts, or of their keys where there are none.

    Returns:
        Hexadecimal digits, the same for a copy of the crops; None without stored crops.
    """
    folder = Path(root) / CROPS
    if not folder.is_dir():
        return None
    tars = sorted(folder.glob("*.tar"))
    facts: Any = read_source_facts(root, CROPS)
    for fact in (NUM_SHARDS, IMAGE_SOURCE):  # more shards leave the crops of the others as they are
        facts.pop(fact, None)
    facts = facts or [read_header(tar).keys_digest for tar in tars]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_crops(root: Path, source: str, crops: str | None) -> None:
    """Refuse token shards that were made for other stored crops. Tokens that say nothing of crops are accepted.

    Args:
        root: folder of the data set.
        source: folder of the token shards below it.
        crops: `crops_digest` of the data set.

    Raises:
        DataError: if the tokens were made for other crops.
    """
    if read_source_facts(root, source).get(CROPS, crops) != crops:
        raise DataError(
            f"{Path(root) / source} holds tokens made for other crops than those in {CROPS} now, so they are not "
            "aligned with the images: run `fourm tokenize --overwrite`"
        )
