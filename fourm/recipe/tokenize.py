"""`fourm tokenize`: read raw shards, cut each sample into its stored crops, and write its tokens.

Every crop of every sample is encoded once, so that training reads ids.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fourm.data.encode import npy
from fourm.data.index import read_header
from fourm.data.shards import (
    CROPS,
    FACTS_FILE,
    NUM_SHARDS,
    ShardWriter,
    check_crops,
    crops_digest,
    read_source_facts,
    remove_leftovers,
    shard_is_complete,
    shard_path,
    write_source_facts,
)
from fourm.errors import ConfigError, DataError
from fourm.machine import WHOLE, Part, choose_device, local_place, num_processes, part_from_environment
from fourm.prepare.progress import progress_bar
from fourm.recipe.crop_shards import CropShards, RawCrops
from fourm.tokenizers.base import Tokenizer, load_tokenizer
from fourm.tokenizers.quantizer_configs import TWO_BYTES
from fourm.train.distributed import World, num_threads, session
from fourm.workers import Start, Work, run_tasks

_LOG = logging.getLogger(__name__)


def run(
    tokenizer: Path,
    root: Path,
    *,
    out: Path | None = None,
    source: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    overwrite: bool = False,
    teacher_weights: Path | None = None,
    workers: int | None = None,
) -> None:
    """Write the tokens of a data set; see `fourm tokenize --help`.

    Raises:
        CheckpointError: if the tokenizer or the weights of its teacher are missing or damaged.
        ConfigError: if processes that know nothing of each other should overwrite.
        DataError: if data is missing or damaged, or other tokens are in the way.
    """
    part = part_from_environment()
    # One thread on the CPU: sums over another number of threads may round otherwise, and tokens would differ.
    with session(device, threads=1) as world:
        if overwrite and part.count != world.size:
            raise ConfigError(
                f"--overwrite in part {part.index} of {part.count}: each would remove what the others have made. "
                "Remove the folder of the tokens once, then start all parts without --overwrite"
            )
        workers = workers or _num_processes(world)
        first = local_place().index * workers
        job = _Job(tokenizer, teacher_weights, root, out or root, source or "", batch_size, device, first)
        model = job.load("cpu" if workers > 1 else str(world.device))
        modality = model.modality
        # The files that a teacher reads are of another modality: `tok_clip`, not `tok_rgb`.
        name = source or f"tok_{modality.key if modality.teacher else modality.source}"
        crops = crops_digest(root)
        world.on_main(lambda: _make_room(job.out, name, overwrite, crops))
        tokenize_shards(
            model,
            CropShards(root, modality),
            job.out,
            name,
            facts={CROPS: crops},
            batch_size=batch_size,
            device=str(world.device),
            part=part,
            workers=workers,
            start=replace(job, source=name) if workers > 1 else None,
        )


def _num_processes(world: World) -> int:
    """Processes that keep this machine busy. On the CPU, OMP_NUM_THREADS is how much of it the user grants."""
    if world.device.type == "cuda":
        return num_processes("cuda")
    return num_threads(None, world.local_size) if world.device.type == "cpu" else 1


@dataclass(frozen=True)
class _Job:
    """What a process has to know to tokenize shards; it makes its work by itself."""

    tokenizer: Path
    teacher_weights: Path | None
    root: Path
    out: Path
    source: str
    batch_size: int
    device: str
    first: int

    def load(self, device: str) -> Any:
        """The tokenizer on a device."""
        model = load_tokenizer(self.tokenizer, device)
        if model.modality.teacher or self.teacher_weights:
            model.load_teacher(self.teacher_weights)
        return model

    def __call__(self, number: int) -> Work[int]:
        torch.set_num_threads(1)
        device = str(choose_device(self.device, self.first + number))
        model = self.load(device)
        return ShardTokenizer(
            model, CropShards(self.root, model.modality), self.out, self.source, self.batch_size, device
        )


def _make_room(root: Path, source: str, overwrite: bool, crops: str | None) -> None:
    """See that a folder is free for tokens of these crops, and remove older tokens from it where that is wanted."""
    folder = root / source
    if not folder.resolve().is_relative_to(root.resolve()) or folder.resolve() == root.resolve():
        raise DataError(f"--source {source} leads out of {root}; expected the name of a folder in it")
    if not folder.is_dir():
        return
    holds_files = any(not path.name.startswith(".") for path in folder.iterdir())
    if holds_files and "tokenizer_hash" not in read_source_facts(root, source):
        raise DataError(
            f"{folder} holds files that `fourm tokenize` did not make (no tokenizer_hash in {FACTS_FILE}), so "
            "nothing is written to it or removed from it. Choose another name with --source, or remove the folder"
        )
    if overwrite:
        shutil.rmtree(folder)
    else:
        check_crops(root, source, crops)


def tokenize_shards(
    tokenizer: Tokenizer,
    reader: CropShards,
    root: Path,
    source: str,
    *,
    facts: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    part: Part = WHOLE,
    workers: int = 1,
    start: Start[int] | None = None,
) -> int:
    """Write `ROOT/<source>/shard-*.tar` with one npy of ids (n_crops, n_tokens) per sample, and `source.json`.

    Shards that are complete are skipped. Batches form within a shard, so its bytes depend on nothing else.

    Args:
        tokenizer: in inference mode, on `device`.
        reader: raw samples.
        root: folder of the token data set.
        source: folder of the tokens below it, for instance `tok_depth`.
        facts: what else `source.json` should say.
        batch_size: crops encoded at a time.
        device: where the tokenizer is.
        part: which share of the shards to write.
        workers: processes on this machine.
        start: makes the work of each of them; None: one process does it, this one.

    Returns:
        Number of samples tokenized now, those of skipped shards not counted.

    Raises:
        DataError: if the folder holds tokens of another tokenizer, or a sample does not fit the tokenizer.
    """
    found = read_source_facts(root, source)
    before = found.get("tokenizer_hash", tokenizer.hash)
    if before != tokenizer.hash:
        raise DataError(
            f"{root / source} holds tokens of another tokenizer ({str(before)[:12]}, now {tokenizer.hash[:12]}): "
            "replace them with --overwrite, or write elsewhere with --source or --out"
        )
    sizes = list(reader.shard_sizes)
    made = {
        "tokenizer_hash": tokenizer.hash,
        "modality": source,
        "raw_modality": tokenizer.modality.name,
        "vocab_size": tokenizer.vocab_size,
        "grid": [tokenizer.grid.height, tokenizer.grid.width],
        NUM_SHARDS: len(sizes),
        **(facts or {}),
    }
    if found != made:  # written first, so that a second run recognises what an interrupted one left
        write_source_facts(root, source, made)
    mine = [shard for shard in range(len(sizes)) if part.has(shard)]
    todo = [shard for shard in mine if not _is_current(root, source, reader, shard)]
    total, whole = sum(sizes[shard] for shard in todo), sum(sizes[shard] for shard in mine)
    here = ShardTokenizer(tokenizer, reader, root, source, batch_size, device)
    with progress_bar(f"{source} samples", whole, whole - total, visible=part.index == 0) as advance:
        run_tasks(start or (lambda number: here), todo, workers if start else 1, advance, "tokenizing process")
    _LOG.info("%s: tokenized %d samples in %d of %d shards", source, total, len(todo), len(sizes))
    return total


def _is_current(root: Path, source: str, reader: CropShards, shard: int) -> bool:
    """Whether the tokens of a shard are there, and of the files as they are now."""
    if not shard_is_complete(root, {source: "npy"}, shard, reader.keys_digest(shard)):
        return False
    before, now = read_header(shard_path(root, source, shard)).made_from, reader.content_digest(shard)
    return before == now or not before or not now


class ShardTokenizer:
    """Makes the tokens of one shard after the other; see `tokenize_shards`."""

    def __init__(
        self, tokenizer: Tokenizer, reader: CropShards, root: Path, source: str, batch_size: int, device: str
    ) -> None:
        self.encode = _Encoder(tokenizer, batch_size, device)
        self.reader = reader
        self.root = root
        self.source = source

    def __call__(self, shard: int, on_step: Callable[[], None]) -> None:
        remove_leftovers(self.root, [self.source], shard)
        with ShardWriter(self.root, shard, {self.source: "npy"}, self.reader.content_digest(shard)) as writer:
            for raw, ids in self.encode.samples(self.reader.read(shard)):
                writer.write(raw.key, {self.source: npy(ids)})
                on_step()


class _Encoder:
    """Encodes crops of several samples at a time."""

    def __init__(self, tokenizer: Tokenizer, batch_size: int, device: str) -> None:
        self.tokenizer = tokenizer
        self.batch_size = max(1, batch_size)
        self.device = device
        self.dtype = np.int16 if tokenizer.vocab_size <= TWO_BYTES else np.int32

    def samples(self, stream: Iterable[RawCrops]) -> Iterator[tuple[RawCrops, NDArray[Any]]]:
        """Samples with their ids (n_crops, n_tokens), in order."""
        waiting: list[RawCrops] = []
        count = 0
        for raw in stream:
            waiting.append(raw)
            count += len(raw.crops)
            if count >= self.batch_size:
                yield from self._flush(waiting)
                waiting, count = [], 0
        yield from self._flush(waiting)

    def _flush(self, waiting: list[RawCrops]) -> Iterator[tuple[RawCrops, NDArray[Any]]]:
        if not waiting:
            return
        for raw in waiting:
            self._check(raw)
        crops = np.concatenate([raw.crops for raw in waiting])
        ids = np.concatenate(
            [self._encode(crops[i : i + self.batch_size]) for i in range(0, len(crops), self.batch_size)]
        )
        start = 0
        for raw in waiting:
            yield raw, ids[start : start + len(raw.crops)]
            start += len(raw.crops)

    def _encode(self, crops: NDArray[Any]) -> NDArray[Any]:
        images = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)
        ids = self.tokenizer.encode(images).flatten(1).cpu().numpy()
        if ids.min() < 0 or ids.max() >= self.tokenizer.vocab_size:
            raise DataError(
                f"the tokenizer gave id {ids.max()}, outside its vocabulary of {self.tokenizer.vocab_size}: "
                "its weights are damaged"
            )
        return ids.astype(self.dtype)

    def _check(self, raw: RawCrops) -> None:
        modality = self.tokenizer.modality
        size = modality.grid.image_size
        expected = size if modality.is_discrete else (modality.channels, *size)
        if raw.crops.shape[1:] != expected:
            raise DataError(
                f"sample '{raw.key}' has crops of shape {raw.crops.shape[1:]}, but the tokenizer of '{modality.name}' "
                f"reads {expected}: use the data this tokenizer was trained for"
            )
        if not modality.is_discrete and not np.isfinite(raw.crops).all():
            raise DataError(
                f"sample '{raw.key}' of '{modality.name}' holds values that are not finite: remove or repair it"
            )
