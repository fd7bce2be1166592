"""Aligned samples in natural units, whole and without augmentation: what predictions are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm.data import decode as decoding
from fourm.data import geometry
from fourm.data.configs import CropConfig
from fourm.data.source import open_source
from fourm.data.transforms import apply, is_image, natural
from fourm.errors import DataError
from fourm.modality import Modality
from fourm.rng import generator

Batch = dict[str, Any]


class Samples:
    """The samples of one data set.

    Args:
        root: folder of the data set.
        modalities: raw modalities by the name the caller uses for them, such as `depth`.
        limit: use only the first so many; None: all.

    Raises:
        DataError: if the data is missing, not aligned or empty.
    """

    def __init__(self, root: Path, modalities: Mapping[str, Modality], limit: int | None = None) -> None:
        self.modalities = dict(modalities)
        self._source = open_source(str(root), [m.source for m in modalities.values()])
        self.count = len(self._source) if limit is None else min(limit, len(self._source))
        if not self.count:
            raise DataError(f"{root} has no samples to evaluate on. Prepare its data first, or name another folder")

    def __len__(self) -> int:
        return self.count

    def read(self, numbers: Sequence[int], names: Sequence[str] | None = None) -> Batch:
        """Some samples.

        Args:
            numbers: which.
            names: which modalities; None: all.

        Returns:
            name -> colours in [0, 1], metres or unit normals (B, C, H, W) float32; labels (B, H, W) int64, void
            negative; a list with the texts or boxes of each sample.

        Raises:
            DataError: if a file is damaged.
        """
        wanted = self.modalities if names is None else {name: self.modalities[name] for name in names}
        values: dict[str, list[Any]] = {name: [] for name in wanted}
        for n in numbers:
            files = self._source.read(n)
            for name, modality in wanted.items():
                value = decoding.decode(files[modality.source], modality, self._where(n, modality))
                values[name].append(natural(value, modality))
        return {name: _stack(column) for name, column in values.items()}

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[Batch]:
        """All samples in order, `size` at a time."""
        for start in range(0, self.count, size):
            yield self.read(range(start, min(start + size, self.count)), names)

    def _where(self, n: int, modality: Modality) -> Any:
        return lambda: self._source.where(n, modality.source)


class CentredSamples(Samples):
    """The largest centred square (or what shape the modality has) of each sample, at the size that the model sees.

    Texts stay as they are: a list holds alternatives. Instances are all those of the first stored crop, which has to be
    the centred one.
    """

    def read(self, numbers: Sequence[int], names: Sequence[str] | None = None) -> Batch:
        """As `Samples.read`."""
        wanted = self.modalities if names is None else {name: self.modalities[name] for name in names}
        values: dict[str, list[Any]] = {name: [] for name in wanted}
        for n in numbers:
            files = self._source.read(n)
            decoded = {name: decoding.decode(files[m.source], m, self._where(n, m)) for name, m in wanted.items()}
            images = [name for name, m in wanted.items() if is_image(m)]
            size = decoded[images[0]].shape[:2] if images else (1, 1)
            target = wanted[images[0]].grid.image_size if images else (1, 1)
            cut = geometry.draw(CropConfig("center"), 0.0, generator("centre"), size, target)
            for name, modality in wanted.items():
                value = decoded[name]
                if modality.decode == "sam":
                    value = value[0]
                elif modality.decode != "text":
                    plain = replace(modality, normalization="none")
                    try:
                        value = apply(value, plain, cut, generator("centre"))
                    except ValueError as error:
                        raise DataError(f"{self._where(n, modality)()}: does not fit its image: {error}") from error
                values[name].append(value)
        return {name: _stack(column) for name, column in values.items()}


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    return values
