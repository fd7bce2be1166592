"""`fourm tokenize`: read raw shards, cut each sample into its stored crops, and write its tokens."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fourm.data import decode as decoding
from fourm.data import geometry, shards, transforms
from fourm.data.shards import CROPS, crops_digest
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.modality import Modality
from fourm.rng import generator
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.tokenize import RawCrops, tokenize_shards
from fourm.train.distributed import session

_LOG = logging.getLogger(__name__)


class CropShards:
    """Samples of one raw modality, each as the stack of its stored crops; without any, as the centre crop alone.

    Args:
        root: folder of the data set.
        modality: the raw modality a tokenizer reads.
    """

    extensions: Mapping[str, str] = {}

    def __init__(self, root: Path, modality: Modality) -> None:
        self.modality = modality
        self.has_crops = (root / CROPS).is_dir()
        self.source = open_source(str(root), [modality.source, *([CROPS] if self.has_crops else [])])
        self.starts = np.cumsum([0, *self.source.shard_sizes]).tolist()

    @property
    def shard_sizes(self) -> Sequence[int]:
        return self.source.shard_sizes

    def read(self, shard: int) -> Iterator[RawCrops]:
        """The samples of one shard in order."""
        for n in range(self.starts[shard], self.starts[shard + 1]):
            yield RawCrops(self.source.key(n), self._crops(n))

    def _crops(self, n: int) -> np.ndarray:
        m, raw = self.modality, self.source.read(n)
        value = decoding.decode(raw[m.source], m, lambda: self.source.where(n, m.source))
        size = value.shape[:2] if transforms.is_image(m) else (1, 1)
        if self.has_crops:
            try:
                stored = decoding.crop_settings(raw[CROPS])
            except Exception as error:
                raise DataError(
                    f"{self.source.where(n, CROPS)}: cannot read it as crop settings: {error}. Make it again"
                ) from error
        else:
            height, width = m.grid.image_size
            stored = np.array([[*geometry.center_box(size, width / height), 0]])
        try:
            if transforms.is_image(m):
                cuts = [geometry.from_settings(stored, row, size) for row in range(len(stored))]
            else:  # features were made crop by crop
                cuts = [geometry.whole(size, row=row) for row in range(len(stored))]
            return np.stack([transforms.apply(value, m, cut, generator("tokenize", n)) for cut in cuts])
        except (DataError, ValueError) as error:
            raise DataError(f"{self.source.where(n, m.source)}: {error}") from None


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
            shards=_noting(crops),
            batch_size=batch_size,
            rank=world.rank,
            world_size=world.size,
            device=str(world.device),
        )


def _noting(crops: str | None) -> Any:
    """The shard format, with the crops noted among the facts of every source it writes."""

    def write_source_facts(root: Path, source: str, facts: Mapping[str, Any]) -> None:
        shards.write_source_facts(root, source, {**facts, CROPS: crops})

    return SimpleNamespace(**{**vars(shards), "write_source_facts": write_source_facts})


def _make_room(root: Path, source: str, overwrite: bool, crops: str | None) -> None:
    """See that a folder is free for tokens of these crops, and remove older tokens from it where that is wanted."""
    folder = root / source
    if not folder.is_dir():
        return
    if not folder.resolve().is_relative_to(root.resolve()) or folder.resolve() == root.resolve():
        raise DataError(f"--source {source} leads out of {root}; expected the name of a folder in it")
    holds_files = any(not path.name.startswith(".") for path in folder.iterdir())
    if holds_files and "tokenizer_hash" not in shards.read_source_facts(root, source):
        raise DataError(
            f"{folder} holds files that `fourm tokenize` did not make (no tokenizer_hash in {shards.FACTS_FILE}), so "
            "nothing is written to it or removed from it. Choose another name with --source, or remove the folder"
        )
    if overwrite:
        shutil.rmtree(folder)
    else:
        shards.check_crops(root, source, crops)
