"""What a recipe says about data. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fourm.config import slot
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.packing_configs import PACKINGS
from fourm.errors import ConfigError
from fourm.ranges import check_range


@dataclass(frozen=True)
class CropConfig:
    """Which part of an image the model sees; one draw holds for all modalities of a sample.

    Args:
        kind: `none` the whole image; `center` the largest centred box of the target's shape; `random_resized` a random
            box;
            `fit` the whole image in its own shape, its shorter side as long as the target's;
            `crop_settings` the boxes stored with the data, for which tokens may have been made beforehand (4M).
        scale: for `random_resized`, smallest and largest share of the image's area; for `scale_jitter`, of the longer
            side, and beyond 1.
        ratio: for `random_resized`, smallest and largest width : height.
        augment: for `crop_settings`, draw one of the stored boxes; false: always the first, the centre crop.
    """

    kind: Literal["none", "center", "random_resized", "fit", "crop_settings", "scale_jitter"] = "none"
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    augment: bool = True

    def __post_init__(self) -> None:
        largest = float("inf") if self.kind == "scale_jitter" else 1
        if not 0 < self.scale[0] <= self.scale[1] <= largest:
            end = "" if self.kind == "scale_jitter" else " <= 1"
            raise ConfigError(f"crop.scale is {list(self.scale)}; expected two numbers with 0 < first <= second{end}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"crop.ratio is {list(self.ratio)}; expected two numbers with 0 < first <= second")


@dataclass(frozen=True)
class DatasetConfig:
    """One data set.

    Args:
        path: its folder, or a pattern such as `data/[rgb,caption]/shard-{00000..00099}.tar`.
        weight: share of the mixture, relative to the other weights.
        modalities: the recipe's modalities it has; leave out for all of them.
        format: `shards` (one tar per source), `folder` (`<source>/<class>/<stem>.<ext>`) or `auto`.
        modality_name_map: folder -> modality, where a folder is not called like the modality's source.
        crop: which part of an image is seen.
        hflip: probability of mirroring left and right (stored crops bring their own flips).
        jitter: strength of random brightness, contrast and saturation of `image` modalities, for instance 0.15.
        rand_augment: RandAugment (Cubuk et al. 2020) of photographs in timm's notation, for instance
            `rand-m9-mstd0.5-inc1`; it also moves and turns them, so that it does not go with answers for every pixel.
        erase: probability of erasing a random box of the photograph (Zhong et al. 2020).
        annotations: for detection, JSON file in COCO's form; `path` is then the folder of its images.
        invalid: of `annotations`: one that cannot be right, such as a box outside its image, is an `error` before
            training, or left out (`skip`).
        keep_empty: keep images without any annotation.
        mirror_words: swap "left" and "right" in captions of mirrored samples.
        aligned_captions: a list of captions holds one per stored crop, instead of alternatives to choose from.
        max_samples: use only the first so many samples.
        shards: first and last shard to use, of a folder of shards; the others may be another data set, to evaluate on.
        packing: `path` holds documents which become rows: token sequences of any length and one modality with
            `kind: stream` or `whole`, text and images with `kind: interleaved`. `max_samples` are then rows.
    """

    path: str
    weight: float = 1.0
    modalities: tuple[str, ...] | None = None
    format: Literal["auto", "shards", "folder"] = "auto"
    modality_name_map: dict[str, str] = field(default_factory=dict)
    crop: CropConfig = field(default_factory=CropConfig)
    hflip: float = 0.0
    jitter: float = 0.0
    rand_augment: str | None = None
    erase: float = 0.0
    annotations: str | None = None
    invalid: Literal["error", "skip"] = "error"
    keep_empty: bool = True
    mirror_words: bool = False
    aligned_captions: bool = False
    max_samples: int | None = None
    shards: tuple[int, int] | None = None
    packing: Any = slot(PACKINGS, optional=True)

    def __post_init__(self) -> None:
        check_range(self, "weight", least=0)
        check_range(self, "shards", least=0)
        if self.shards and self.shards[0] > self.shards[1]:
            raise ConfigError(f"shards is {list(self.shards)}; expected the first and the last to use")
        check_range(self, "hflip", "erase", least=0, most=1)
        check_range(self, "jitter", least=0, below=1)
        if self.annotations is None and self.crop.kind == "scale_jitter":
            raise ConfigError("crop.kind scale_jitter is for detection: name the file of annotations")
        if self.annotations is not None and (self.crop.kind not in ("none", "scale_jitter") or self.jitter):
            raise ConfigError(
                f"data with annotations is changed by crop.kind scale_jitter and hflip alone, not by {self.crop.kind}"
                f"{' and jitter' if self.jitter else ''}"
            )
        check_range(self, "max_samples", least=1)
        changed = [n for n in ("hflip", "jitter", "rand_augment", "erase", "annotations", "shards") if getattr(self, n)]
        images = isinstance(self.packing, InterleavedConfig)
        if images:
            changed = [n for n in ("annotations", "shards") if getattr(self, n)]
        if self.packing is not None and (changed or (self.crop.kind != "none" and not images)):
            raise ConfigError(f"packing is for documents of tokens, which {(changed or ['crop'])[0]} does not go with")
        if self.crop.kind == "crop_settings" and self.hflip:
            raise ConfigError(
                "hflip does not go with crop.kind: crop_settings, whose boxes bring their own flips; set hflip: 0"
            )


@dataclass(frozen=True)
class MixtureConfig:
    """Data sets drawn from by weight.

    Args:
        datasets: name -> data set. The name keys its random order: renaming a data set reorders it.
    """

    datasets: dict[str, DatasetConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.datasets and not any(dataset.weight > 0 for dataset in self.datasets.values()):
            raise ConfigError("datasets: all weights are 0, so that nothing can be drawn")


@dataclass(frozen=True)
class CacheConfig:
    """Where shards at URLs are kept while they are read.

    Args:
        folder: on a disk of this machine; all processes and runs may share it. None: `fourm/shards` where the system
            keeps caches.
        gib: most space that its tars take; those that were opened longest ago leave first.
    """

    folder: str | None = None
    gib: float = 100.0

    def __post_init__(self) -> None:
        check_range(self, "gib", above=0)

    @property
    def root(self) -> Path:
        """The folder."""
        system = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(self.folder or f"{system}/fourm/shards").expanduser()


@dataclass(frozen=True)
class DataConfig:
    """All data of a recipe.

    Args:
        train: data sets to train on.
        val: data sets to evaluate on.
        num_workers: loader processes per rank; 0 loads in the training process. The batches are the same for any
            number.
        shuffle_window: shards whose samples are shuffled together; bounds the memory of the order and what is read at
            a time.
        cache: of shards at URLs.
        damaged: what follows where a sample cannot be read, after the tries that slow storage gets: `stop` ends the run
            with an error, all steps so far saved; `skip` warns, and another sample of the data set takes its place.
        timeout_seconds: a loader process that gives nothing for so long ends the run with an error, as it does where
            storage stalls; None: the run waits.
        resolutions: pixels of the shorter side of training images; every optimizer step draws one of them for its whole
            batch. Empty: the modalities' own size, which evaluation always takes.
    """

    train: MixtureConfig
    val: MixtureConfig = field(default_factory=MixtureConfig)
    num_workers: int = 0
    shuffle_window: int = 64
    cache: CacheConfig = field(default_factory=CacheConfig)
    damaged: Literal["stop", "skip"] = "stop"
    timeout_seconds: float | None = None
    resolutions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_range(self, "resolutions", "shuffle_window", least=1)
        check_range(self, "num_workers", least=0)
        check_range(self, "timeout_seconds", above=0)
