"""One data set: number of a sample in, aligned arrays out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data import decode as decoding
from fourm.data import transforms
from fourm.data.configs import CacheConfig, DatasetConfig
from fourm.data.interleaved import build_interleaved
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.opened import OpenedSample
from fourm.data.packing import PackedDocuments
from fourm.data.paths import facts_folder, some_shards
from fourm.data.remote import is_url
from fourm.data.shards import CROPS, FACTS_FILE, check_crops, check_tokenizer_hash, crops_digest
from fourm.data.source import Source, open_source
from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.modality import ModalitySet

Encoder = Callable[[Any, np.random.Generator], Any]


class AlignedDataset:
    """Samples of aligned modalities. `sample` is a pure function of the sample's number and the generator it is given.

    Args:
        name: name of the data set in the recipe; keys its random order.
        source: the files.
        modalities: what to read.
        encoders: modality -> function that turns its decoded value (text, boxes) into token ids; others are returned
            decoded. One that draws nothing says so: its `draws` is False.
        config: crop, flip, jitter and the like; its `path`, `format` and `modalities` are not used here.
        folders: modality -> folder, where it is not the modality's `source`.

    Raises:
        ConfigError: if crops or flips are asked for that the modalities cannot follow.
        DataError: if there are no samples.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        modalities: ModalitySet,
        encoders: Mapping[str, Encoder],
        config: DatasetConfig,
        folders: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.modalities = modalities
        self.encoders = {m: encoder for m, encoder in encoders.items() if m in modalities}
        self.config = config
        self.folders = {m.name: (folders or {}).get(m.name, m.source) for m in modalities.values()}
        self.images = [m for m in modalities.values() if transforms.is_image(m)]
        self.drawing = [
            (m, encoded)
            for m in modalities.values()
            if (encoded := getattr(self.encoders.get(m.name), "draws", m.name in self.encoders))
            or m.decode in transforms.DRAWING
        ]
        for modality in modalities.values():
            decoding.decoder_of(modality)
        self._check_geometry()
        self.shard_sizes = _limited(source.shard_sizes, config.max_samples)
        if not len(self):
            raise DataError(
                f"data set '{name}' ({source.name}) is empty: it has no samples. Check its path, or make its data first"
            )

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    @property
    def prefetch(self) -> Callable[[Iterable[int]], None] | None:
        """Tells the source which shards are read next, and returns at once; None where that changes nothing."""
        return getattr(self.source, "prefetch", None)

    def _check_geometry(self) -> None:
        crop, hflip = self.config.crop.kind, self.config.hflip
        tokens = [m.name for m in self.modalities.values() if m.decode in ("tokens", "sam")]
        features = [m for m in self.modalities.values() if m.decode == "features"]
        maps = [m.name for m in features if m.grid.image_size != (1, 1)]
        if tokens and (crop == "random_resized" or hflip):
            raise ConfigError(
                f"data set '{self.name}': {tokens[0]} holds tokens made beforehand, which cannot follow new crops "
                f"or flips. "
                "Make tokens for several stored crops (`fourm tokenize`) and set crop.kind: crop_settings, hflip: 0"
            )
        if maps and (crop == "random_resized" or hflip):
            raise ConfigError(
                f"data set '{self.name}': {maps[0]} holds a map of features made beforehand, which cannot follow new "
                "crops or flips. Make features for stored crops, one row each, and set crop.kind: crop_settings, "
                "hflip: 0"
            )
        boxes = any(m.decode == "boxes" for m in self.modalities.values())
        people = any(m.decode == "poses" for m in self.modalities.values())  # in pixels, as stored crops are
        unknown = crop == "random_resized" or (boxes and crop != "none") or (people and crop != CROPS)
        if not self.images and unknown:
            raise ConfigError(
                f"data set '{self.name}': crop.kind {crop} needs an image among its modalities, to know the size"
            )

    def check_resolutions(self, resolutions: Sequence[int]) -> None:
        """Whether all that has a size can be read at these.

        Raises:
            ConfigError: naming the modality that cannot, or the resolution that its shape does not allow.
        """
        for modality in self.modalities.values() if resolutions else ():
            if modality.is_grid and modality not in self.images:
                raise ConfigError(
                    f"data set '{self.name}': data.resolutions changes the size of images, which '{modality.name}' "
                    "cannot follow; leave it out"
                )

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        """Read, decode, crop, normalise and encode sample n.

        Args:
            n: its number, 0 <= n < len(self).
            rng: source of all randomness.
            resolution: pixels of the shorter side of its images; None: their modalities' sizes.

        Returns:
            modality -> value: images and features float32 (C, H, W), label maps int64 (H, W), tokens int64 (N,),
            encoded text int64 (L,) or a list of its chunks, vectors float32 (L, dim); text and values with structure
            (boxes, people, facts ...) without an encoder as they are.

        Raises:
            DataError: if a file is damaged or does not fit; names shard, key, modality and remedy.
        """
        return dict(self.open(n, rng, resolution))

    def open(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> OpenedSample:
        """The same, but each value is read and decoded when it is asked for."""
        return OpenedSample(self, n, rng, resolution)


def build_dataset(
    name: str,
    config: DatasetConfig,
    modalities: ModalitySet,
    encoders: Mapping[str, Encoder] | None = None,
    cache: CacheConfig | None = None,
) -> Any:
    """Open a data set as a recipe describes it: aligned samples, or with `packing` rows of documents.

    Args:
        name: its name in the recipe.
        config: its description.
        modalities: all modalities of the recipe.
        encoders: modality -> function from text or boxes to token ids.
        cache: of shards at URLs.

    Raises:
        ConfigError: if it names unknown modalities.
        DataError: if the data is missing, damaged or not aligned.
    """
    chosen = modalities if config.modalities is None else modalities.subset(config.modalities)
    if isinstance(config.packing, InterleavedConfig):
        return build_interleaved(name, config, chosen, encoders or {}, source_folders(name, config, chosen), cache)
    if config.packing is not None:
        return _packed(name, config, chosen)
    folders = source_folders(name, config, chosen)
    read = [folders[m.name] for m in chosen.values() if m.decode != decoding.FROM_KEY]
    needed = [*read, *([CROPS] if config.crop.kind == CROPS else [])]
    path = config.path if config.shards is None else some_shards(config.path, needed, *config.shards)
    source = open_source(path, needed, config.format, cache)
    return AlignedDataset(name, source, chosen, encoders or {}, config, folders)


def _packed(name: str, config: DatasetConfig, modalities: ModalitySet) -> PackedDocuments:
    if len(modalities) != 1:
        raise ConfigError(
            f"data set '{name}' has packing, for documents of one modality, but {len(modalities)} modalities "
            f"({', '.join(modalities)}): name the one it holds under modalities"
        )
    return PackedDocuments(name, config.path, next(iter(modalities.values())), config.packing, config.max_samples)


def source_folders(name: str, config: DatasetConfig, modalities: ModalitySet) -> dict[str, str]:
    """Modality -> folder of its files: the modality's source, unless `modality_name_map` gives another folder to it.

    Raises:
        ConfigError: if the map names something that is no modality.
    """
    folders = {m.name: m.source for m in modalities.values()}
    for folder, target in config.modality_name_map.items():
        meant = [m.name for m in modalities.values() if target in (m.name, m.key, m.source)]
        if not meant:
            raise ConfigError(
                f"data set '{name}': modality_name_map gives folder '{folder}' to '{target}', which is not one of "
                f"its modalities."
                f"{did_you_mean(target, modalities)}"
            )
        folders.update(dict.fromkeys(meant, folder))
    return folders


def check_tokens(
    name: str,
    config: DatasetConfig,
    modalities: ModalitySet,
    hashes: Mapping[str, str],
    cache: CacheConfig | None = None,
) -> None:
    """Refuse tokens that other tokenizers made, or for other crops, wherever the data set keeps them.

    Args:
        name: its name in the recipe.
        config: its description.
        modalities: all modalities of the recipe.
        hashes: token modality -> hash of the recipe's tokenizer for it.
        cache: of shards at URLs, whose facts are fetched.

    Raises:
        DataError: if the tokens carry no hash or another one, or were made for other stored crops than are used.
    """
    chosen = modalities if config.modalities is None else modalities.subset(config.modalities)
    if config.packing is not None:
        place = Path(config.path)
        for expected in (hashes[m] for m in chosen if m in hashes and (place / FACTS_FILE).is_file()):
            check_tokenizer_hash(place.parent, place.name, expected)
        return
    folders = source_folders(name, config, chosen)
    path = config.path
    if is_url(path):
        from fourm.data.mirror import Mirror

        mirror = Mirror(path, cache or CacheConfig())
        mirror.facts([CROPS, *(folders[m] for m in hashes if m in folders)])
        path = str(mirror.root)
    crops = crops_digest(facts_folder(path, CROPS)[0]) if config.crop.kind == CROPS else None
    for modality, folder in folders.items():
        where = facts_folder(path, folder)
        if modality in hashes and where[0].joinpath(where[1]).is_dir():  # data that is not there is told on opening it
            check_tokenizer_hash(*where, hashes[modality])
            if crops is not None:
                check_crops(*where, crops)


def _limited(sizes: Any, limit: int | None) -> list[int]:
    """Sizes of the pieces when only the first `limit` samples are used."""
    kept, left = [], sum(sizes) if limit is None else limit
    for size in sizes:
        kept.append(min(size, left))
        left -= kept[-1]
    return [size for size in kept if size > 0] if limit is not None else list(kept)
