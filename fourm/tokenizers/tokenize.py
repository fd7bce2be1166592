"""Raw shards to token shards: encode every crop of every sample once, so that training reads ids."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fourm.errors import DataError
from fourm.tokenizers.configs import TWO_BYTES

if TYPE_CHECKING:
    from fourm.tokenizers.base import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawCrops:
    """One sample as its tokenizer reads it.

    Args:
        key: its key.
        crops: (n_crops, C, H, W) normalised values or (n_crops, H, W) labels; row 0 is the centre crop.
        extras: source -> encoded bytes to write beside the tokens, for instance `crop_settings`.
    """

    key: str
    crops: NDArray[Any]
    extras: Mapping[str, bytes] = field(default_factory=dict)


class CropReader(Protocol):
    """Where samples come from.

    Attributes:
        shard_sizes: number of samples in each shard.
        extensions: extension of each extra source the samples bring; usually empty.
    """

    @property
    def shard_sizes(self) -> Sequence[int]: ...

    @property
    def extensions(self) -> Mapping[str, str]: ...

    def read(self, shard: int) -> Iterable[RawCrops]:
        """The samples of one shard in order."""
        ...


class Writer(Protocol):
    """One shard being written."""

    def write(self, key: str, sample: Mapping[str, bytes]) -> None: ...


class ShardFormat(Protocol):
    """How shards lie on disk; `fourm.data.shards` is one."""

    def ShardWriter(self, root: Path, shard: int, extensions: Mapping[str, str]) -> AbstractContextManager[Writer]: ...

    def shard_is_complete(
        self, root: Path, sources: Iterable[str], shard: int, num_samples: int | None = None
    ) -> bool: ...

    def write_source_facts(self, root: Path, source: str, facts: Mapping[str, Any]) -> None: ...

    def read_source_facts(self, root: Path, source: str) -> dict[str, Any]: ...


def tokenize_shards(
    tokenizer: Tokenizer,
    reader: CropReader,
    out_root: str | Path,
    source_name: str,
    *,
    shards: ShardFormat,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    resume: bool = True,
    modality: str | None = None,
    device: str = "cpu",
) -> int:
    """Write `OUT/<source_name>/shard-*.tar` with one npy of ids (n_crops, n_tokens) per sample, and `source.json`.

    Args:
        tokenizer: in inference mode, on `device`.
        reader: raw samples.
        out_root: folder of the token data set.
        source_name: folder of the tokens below it, for instance `tok_depth`.
        shards: how shards are written.
        batch_size: crops encoded at a time.
        rank: this process writes the shards whose number is `rank` modulo `world_size`.
        resume: skip shards that are complete; False writes all anew.
        modality: name of the token modality, noted in `source.json`.
        device: where the tokenizer is.

    Returns:
        Number of samples tokenized now, those of skipped shards not counted.

    Raises:
        DataError: if the folder holds tokens of another tokenizer, or a sample does not fit the tokenizer.
    """
    root = Path(out_root)
    digest = tokenizer.hash
    _check_facts(shards.read_source_facts(root, source_name), digest, root / source_name)
    sizes = list(reader.shard_sizes)
    if rank == 0:
        # Written first, so that a second run recognises what an interrupted one left.
        shards.write_source_facts(root, source_name, _facts(tokenizer, digest, modality or source_name, len(sizes)))
    extensions = {source_name: "npy", **reader.extensions}
    todo = [
        shard
        for shard in range(rank, len(sizes), world_size)
        if not (resume and shards.shard_is_complete(root, extensions, shard, sizes[shard]))
    ]
    encode = _Encoder(tokenizer, batch_size, device)
    written = 0
    with _Progress(sum(sizes[shard] for shard in todo), f"tokenize {source_name}", visible=rank == 0) as advance:
        for shard in todo:
            with shards.ShardWriter(root, shard, extensions) as writer:
                for raw, ids in encode.samples(reader.read(shard)):
                    writer.write(raw.key, {source_name: _npy(ids), **raw.extras})
                    written += 1
                    advance()
    log.info(
        "%s: tokenized %d samples in %d shards, %d shards were complete",
        source_name,
        written,
        len(todo),
        len(sizes) - len(todo),
    )
    return written


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
        import torch

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


def _facts(tokenizer: Tokenizer, digest: str, modality: str, num_shards: int) -> dict[str, Any]:
    return {
        "tokenizer_hash": digest,
        "modality": modality,
        "raw_modality": tokenizer.modality.name,
        "vocab_size": tokenizer.vocab_size,
        "grid": [tokenizer.grid.height, tokenizer.grid.width],
        "num_shards": num_shards,
    }


def _check_facts(found: Mapping[str, Any], digest: str, folder: Path) -> None:
    before = found.get("tokenizer_hash")
    if before is not None and before != digest:
        raise DataError(
            f"{folder} holds tokens of another tokenizer ({str(before)[:12]}, now {digest[:12]}): "
            "replace them with --overwrite, or write elsewhere with --source or --out"
        )


def _npy(ids: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, ids, allow_pickle=False)
    return buffer.getvalue()


class _Progress:
    """A progress bar, as a context manager that gives the function to advance it."""

    def __init__(self, total: int, title: str, visible: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, disable=not visible, transient=True)
        self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
