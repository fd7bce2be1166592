"""`fourm tokenize`: read raw shards, cut each sample into its stored crops, and write its tokens.

Every crop of every sample is encoded once, so that training reads ids.
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fourm.data.shards import (
    CROPS,
    FACTS_FILE,
    NUM_SHARDS,
    ShardWriter,
    check_crops,
    crops_digest,
    read_source_facts,
    shard_is_complete,
    write_source_facts,
)
from fourm.errors import DataError
from fourm.recipe.crops import CropShards, RawCrops
from fourm.tokenizers.base import Tokenizer, load_tokenizer
from fourm.tokenizers.quantizer_configs import TWO_BYTES
from fourm.train.distributed import session

_LOG = logging.getLogger(__name__)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


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
) -> None:
    """Write the tokens of a data set; see `fourm tokenize --help`.

    Raises:
        CheckpointError: if the tokenizer or the weights of its teacher are missing or damaged.
        DataError: if data is missing or damaged, or other tokens are in the way.
    """
    with session(device) as world:
        model: Any = load_tokenizer(tokenizer, world.device)
        if model.modality.teacher or teacher_weights:
            model.load_teacher(teacher_weights)
        # The files that a teacher reads are of another modality: `tok_clip`, not `tok_rgb`.
        name = source or f"tok_{model.modality.key if model.modality.teacher else model.modality.source}"
        destination = out or root
        crops = crops_digest(root)
        world.on_main(lambda: _make_room(destination, name, overwrite, crops))
        tokenize_shards(
            model,
            CropShards(root, model.modality),
            destination,
            name,
            facts={CROPS: crops},
            batch_size=batch_size,
            rank=world.rank,
            world_size=world.size,
            device=str(world.device),
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
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
) -> int:
    """Write `ROOT/<source>/shard-*.tar` with one npy of ids (n_crops, n_tokens) per sample, and `source.json`.

    Shards that are complete are skipped.

    Args:
        tokenizer: in inference mode, on `device`.
        reader: raw samples.
        root: folder of the token data set.
        source: folder of the tokens below it, for instance `tok_depth`.
        facts: what else `source.json` should say.
        batch_size: crops encoded at a time.
        rank: this process writes the shards whose number is `rank` modulo `world_size`.
        device: where the tokenizer is.

    Returns:
        Number of samples tokenized now, those of skipped shards not counted.

    Raises:
        DataError: if the folder holds tokens of another tokenizer, or a sample does not fit the tokenizer.
    """
    before = read_source_facts(root, source).get("tokenizer_hash", tokenizer.hash)
    if before != tokenizer.hash:
        raise DataError(
            f"{root / source} holds tokens of another tokenizer ({str(before)[:12]}, now {tokenizer.hash[:12]}): "
            "replace them with --overwrite, or write elsewhere with --source or --out"
        )
    sizes = list(reader.shard_sizes)
    if rank == 0:
        # Written first, so that a second run recognises what an interrupted one left.
        made = {
            "tokenizer_hash": tokenizer.hash,
            "modality": source,
            "raw_modality": tokenizer.modality.name,
            "vocab_size": tokenizer.vocab_size,
            "grid": [tokenizer.grid.height, tokenizer.grid.width],
            NUM_SHARDS: len(sizes),
        }
        write_source_facts(root, source, {**made, **(facts or {})})
    extensions = {source: "npy"}
    todo = [
        shard
        for shard in range(rank, len(sizes), world_size)
        if not shard_is_complete(root, extensions, shard, sizes[shard])
    ]
    encode = _Encoder(tokenizer, batch_size, device)
    total = sum(sizes[shard] for shard in todo)
    with Progress(*_COLUMNS, disable=rank != 0, transient=True) as bar:
        task = bar.add_task(f"tokenize {source}", total=total)
        for shard in todo:
            with ShardWriter(root, shard, extensions) as writer:
                for raw, ids in encode.samples(reader.read(shard)):
                    writer.write(raw.key, {source: _npy(ids)})
                    bar.advance(task)
    _LOG.info("%s: tokenized %d samples in %d of %d shards", source, total, len(todo), len(sizes))
    return total


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


def _npy(ids: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, ids, allow_pickle=False)
    return buffer.getvalue()
