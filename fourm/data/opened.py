"""One sample of a data set, whose files are read, decoded and cropped when they are first asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fourm.data import decode as decoding
from fourm.data import geometry as geometries
from fourm.data import transforms
from fourm.data.augment import draw_augmentation
from fourm.data.geometry import Geometry
from fourm.data.images import jpeg_size
from fourm.data.patches import WORTH_IT, resized_patches
from fourm.data.shards import CROPS
from fourm.errors import ConfigError, DataError
from fourm.modality import Modality

if TYPE_CHECKING:
    from fourm.data.dataset import AlignedDataset

T = TypeVar("T")


class OpenedSample(Mapping[str, Any]):
    """Modality -> value, as `AlignedDataset.sample` describes them. What is never asked for is never decoded.

    What draws does so at once, in the order of the modalities: no value depends on which others are asked for.

    Args:
        dataset: what it is a sample of.
        n: its number.
        rng: source of all randomness.
        resolution: pixels of the shorter side of its images; None: their modalities' sizes.

    Raises:
        DataError: here and when a value is asked for, if a file is damaged or does not fit.
    """

    def __init__(self, dataset: AlignedDataset, n: int, rng: np.random.Generator, resolution: int | None) -> None:
        self._dataset, self._n, self._rng, self._resolution = dataset, n, rng, resolution
        self._config, self._modalities = dataset.config, dataset.modalities
        self._files: dict[str, bytes] = {}
        self._decoded: dict[str, Any] = {}
        self._cropped: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self.geometry = self._draw_geometry()
        self.jitter = transforms.Jitter.draw(self._config.jitter, rng)
        self.augment = draw_augmentation(self._config.rand_augment, self._config.erase, rng)
        self.failed = False
        for modality, encoded in dataset.drawing:
            self._cropped[modality.name] = self._crop(modality)
            if encoded:
                self._values[modality.name] = self._finish(modality)

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = self._noting(self._finish, self._modalities[name])
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modalities

    def __iter__(self) -> Iterator[str]:
        return iter(self._modalities)

    def __len__(self) -> int:
        return len(self._modalities)

    def patches(self, modality: Modality, positions: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Some patches of an image, of which no others are turned into numbers.

        Args:
            modality: the image.
            positions: (n,) places in its grid.

        Returns:
            (n, p * p * C), each as (row, column, channel); None where they have to be cut from the whole value.

        Raises:
            DataError: if its file is damaged.
        """
        if modality.name in self._values or (self.jitter is not None and modality.decode == "image"):
            return None
        if modality.name not in self._cropped:
            few = self._noting(lambda m: self._few_patches(m, positions), modality)
            if few is not None:
                return few
            self._cropped[modality.name] = self._noting(self._crop, modality)
        return transforms.to_patches(self._cropped[modality.name], modality, positions)

    def _few_patches(self, modality: Modality, positions: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Patches of a photograph that are few enough not to resize all of it; None otherwise."""
        grid, few = modality.grid, len(positions) <= WORTH_IT * modality.num_tokens
        plain = self._resolution is None and self._config.crop.kind != "fit" and self.augment is None
        if modality.decode != "image" or not few or not plain:
            return None
        value = self._decoded[modality.name] = self._decode(modality)
        if (self.geometry.height, self.geometry.width) == grid.image_size or not transforms.is_scaled(modality):
            return None  # nothing is to be resized
        with contextlib.suppress(ValueError):  # which is told with its place where the whole is cropped
            levels = resized_patches(value, self.geometry, grid, positions)
            return transforms.scaled(levels.reshape(len(positions), -1), modality)
        return None

    def _noting(self, make: Callable[[Modality], T], modality: Modality) -> T:
        try:
            return make(modality)
        except DataError:
            self.failed = True  # this error says already where it comes from
            raise

    def _finish(self, modality: Modality) -> Any:
        """A cropped value as networks read it."""
        name = modality.name
        value = self._cropped.pop(name) if name in self._cropped else self._crop(modality)
        if transforms.is_image(modality):
            return transforms.to_input(value, modality, self.jitter if modality.decode == "image" else None)
        encoder = self._dataset.encoders.get(name)
        if encoder is None:
            return value
        try:
            return encoder(value, self._rng)
        except DataError as error:
            raise DataError(f"{self._where(modality)()}: {error}") from error

    def _crop(self, modality: Modality) -> Any:
        """A decoded value after the sample's geometry; images are still 8-bit."""
        config, geometry, value = self._config, self.geometry, self._decode(modality)
        try:
            if not transforms.is_image(modality):
                return transforms.apply(
                    value, modality, geometry, self._rng,
                    mirror_words=config.mirror_words, aligned_captions=config.aligned_captions,
                )  # fmt: skip
            size = modality.grid.image_size
            if self._resolution is not None:
                size = modality.grid.image_size_at(self._resolution)
            if config.crop.kind == "fit":
                size = geometries.fitted(geometry, size)
            pixels = transforms.cropped(value, modality, geometry, size)
            augment = self.augment if modality.decode in transforms.AUGMENTED else None
            return pixels if augment is None else augment(pixels)
        except ValueError as error:
            if isinstance(error, ConfigError | DataError):
                raise
            raise DataError(
                f"{self._where(modality)()}: modality '{modality.name}' does not fit the sample's crop: {error}"
            ) from error

    def _decode(self, modality: Modality) -> Any:
        if modality.name in self._decoded:
            return self._decoded.pop(modality.name)
        return decoding.decode(self._bytes(modality), modality, self._where(modality))

    def _draw_geometry(self) -> Geometry:
        dataset, config, n = self._dataset, self._config, self._n
        stored = None
        if config.crop.kind == CROPS:
            data = self._file(CROPS)
            try:
                stored = decoding.crop_settings(data)
            except Exception as error:
                raise DataError(
                    f"{dataset.source.where(n, CROPS)}: cannot read it as crop settings: {error}. Make it again"
                ) from error
        first = dataset.images[0] if dataset.images else None
        size = self._image_size(first) if first is not None else (1, 1)
        try:
            if first is not None:
                return geometries.draw(config.crop, config.hflip, self._rng, size, first.grid.image_size, stored)
            if stored is not None:
                row = int(self._rng.integers(len(stored))) if config.crop.augment else 0
                return geometries.from_settings(stored, row)
        except DataError as error:
            where = dataset.source.where(n, CROPS if first is None else dataset.folders[first.name])
            raise DataError(f"{where}: {error}") from error
        return geometries.whole(size, hflip=bool(config.hflip and self._rng.random() < config.hflip))

    def _image_size(self, modality: Modality) -> tuple[int, int]:
        """(height, width), of JPEGs, which take long to decode, without doing so."""
        size = jpeg_size(self._bytes(modality)) if modality.decode == "image" else None
        if size is not None:
            return size
        value = self._decoded[modality.name] = self._decode(modality)
        return value.shape[0], value.shape[1]

    def _bytes(self, modality: Modality) -> bytes:
        if modality.decode == decoding.FROM_KEY:
            return self._dataset.source.key(self._n).encode()
        return self._file(self._dataset.folders[modality.name])

    def _file(self, source: str) -> bytes:
        """Read once for all modalities, and for the size of the image."""
        if source not in self._files:
            self._files[source] = self._dataset.source.read_file(self._n, source)
        return self._files[source]

    def _where(self, modality: Modality) -> Callable[[], str]:
        source = None if modality.decode == decoding.FROM_KEY else self._dataset.folders[modality.name]
        return lambda: self._dataset.source.where(self._n, source)
