"""Samples of a raw modality, each cut into the crops that are stored with the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fourm.data import decode as decoding
from fourm.data.crops import cut_all
from fourm.data.shards import CROPS
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.modality import Modality
from fourm.rng import generator


class RawCrops(NamedTuple):
    """One sample as its tokenizer reads it.

    Args:
        key: its key.
        crops: (n_crops, C, H, W) normalised values or (n_crops, H, W) labels; row 0 is the centre crop.
    """

    key: str
    crops: np.ndarray


class CropShards:
    """Samples of one raw modality, each as the stack of its stored crops; without any, as the centre crop alone.

    Args:
        root: folder of the data set.
        modality: the raw modality a tokenizer reads.
    """

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
        stored = None
        if self.has_crops:
            try:
                stored = decoding.crop_settings(raw[CROPS])
            except Exception as error:
                raise DataError(
                    f"{self.source.where(n, CROPS)}: cannot read it as crop settings: {error}. Make it again"
                ) from error
        try:
            return cut_all(value, m, stored, generator("tokenize", n))
        except (DataError, ValueError) as error:
            raise DataError(f"{self.source.where(n, m.source)}: {error}") from None
