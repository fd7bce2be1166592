"""Samples of a raw modality, each cut into the crops that are stored with the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fourm.data import decode as decoding
from fourm.data import transforms
from fourm.data.shards import CROPS, IMAGE_SOURCE, read_source_facts
from fourm.data.source import open_source
from fourm.data.stored_crops import cut_all
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
        # Crops are in pixels of the image they were drawn for, which the modality's own files may be larger than.
        image = read_source_facts(root, CROPS).get(IMAGE_SOURCE, "rgb") if self.has_crops else modality.source
        differs = image != modality.source and transforms.is_image(modality) and (root / image).is_dir()
        self.image = image if differs else None
        others = [CROPS] * self.has_crops + [image] * differs
        self.source = open_source(str(root), [modality.source, *others])
        self.starts = np.cumsum([0, *self.source.shard_sizes]).tolist()

    @property
    def shard_sizes(self) -> Sequence[int]:
        return self.source.shard_sizes

    def keys_digest(self, shard: int) -> str:
        """What tells the samples of a shard from others."""
        return self.source.keys_digest(shard)

    def content_digest(self, shard: int) -> str:
        """What tells the files of a shard, and its crops, from others of the same names; empty where not known."""
        return self.source.content_digest(shard)

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
            size = self._image_size(raw) if self.image else None
            return cut_all(value, m, stored, generator("tokenize", n), size)
        except (DataError, ValueError) as error:
            raise DataError(f"{self.source.where(n, m.source)}: {error}") from None

    def _image_size(self, raw: Mapping[str, bytes]) -> tuple[int, int]:
        """(height, width) of the image that the crops of a sample were drawn for."""
        assert self.image is not None
        try:
            return decoding.image_size(raw[self.image])
        except OSError as error:
            raise DataError(f"its image in '{self.image}' cannot be read: {error}") from None
