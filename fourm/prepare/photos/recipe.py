"""What a recipe of `fourm prepare photos` says. Free of torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fourm.config import slots
from fourm.errors import ConfigError, did_you_mean
from fourm.modality import Modality
from fourm.prepare.labelers.configs import LABELER_KINDS, CropSettingsConfig, LabelerConfig, like
from fourm.prepare.labelers.tables import find_table
from fourm.ranges import check_range

IMAGE = "rgb"
ORIGIN = "origin"
CROPS = "crop_settings"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


@dataclass(frozen=True)
class ImageConfig:
    """How photographs are stored.

    Args:
        size: pixels of the shorter side; smaller photographs stay as they are. 0 keeps every size.
        format: jpg, or png without loss.
        quality: of jpg, up to 100.
        background: red, green, blue behind transparent photographs.
        max_pixels: larger files are rejected before they are decoded (decompression bombs).
        min_side: photographs with fewer pixels on a side are rejected.
        unusual: files that are not plain photographs, which are CMYK, 16-bit, or animated, are converted (animations:
            their first picture), or rejected.
        column: of a data set, the one with photographs; empty: the only one that has images.
    """

    size: int = 256
    format: Literal["jpg", "png"] = "jpg"
    quality: int = 95
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 200_000_000
    min_side: int = 16
    unusual: Literal["convert", "reject"] = "convert"
    column: str = ""

    def __post_init__(self) -> None:
        check_range(self, "size", least=0)
        check_range(self, "quality", least=1, most=100)
        check_range(self, "background", least=0, most=255)
        check_range(self, "max_pixels", "min_side", least=1)

    def modality(self) -> Modality:
        return like("rgb@224", IMAGE)


@dataclass(frozen=True)
class PhotosRecipe:
    """Photographs, and what is to be said of them.

    Args:
        input: a folder of photographs or of tars; tars as `photos/{00000..00099}.tar`; either also at a URL (`s3://`,
            `gs://`, `hf://`), tars also as `pipe:COMMAND`; a data set of the Hub, `hf:NAME[:CONFIG][:SPLIT]`, Parquet
            files, or a folder that `datasets` saved.
        output: folder of the shards.
        image: how photographs are stored.
        labels: folder -> labeler. The folder names the modality in recipes.
        shard_size: photographs per shard, of a folder; every tar becomes one shard.
        seed: the photographs of a folder are shuffled once, so that every shard holds all kinds; null keeps their
            order.
        batch_size: photographs labelled at a time.
        device: that labelers with networks use; `auto` is the first of cuda, mps and cpu.
    """

    input: str
    output: Path
    image: ImageConfig = field(default_factory=ImageConfig)
    labels: dict[str, LabelerConfig] = slots(LABELER_KINDS)
    shard_size: int = 1000
    seed: int | None = 0
    batch_size: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        check_range(self, "shard_size", "batch_size", least=1)
        for source, labeler in self.labels.items():
            if not _NAME.fullmatch(source) or source in (IMAGE, ORIGIN):
                raise ConfigError(
                    f"labels.{source}: a label is stored in a folder of its name, which takes letters, digits, _ + - "
                    f"and may not be '{IMAGE}' or '{ORIGIN}'"
                )
            if isinstance(labeler, CropSettingsConfig) and source != CROPS:
                raise ConfigError(f"labels.{source}: crops are found by the name '{CROPS}'; call the label so")
            for need in labeler.needs:
                if need not in self.labels:
                    hint = did_you_mean(need, self.labels)
                    raise ConfigError(
                        f"labels.{source} needs the label '{need}', which is not listed.{hint} Add it: {need}: {{...}}"
                    )
        self.order()

    def order(self) -> list[str]:
        """Labels in an order in which each comes after those it uses.

        Raises:
            ConfigError: if labels need each other in a circle.
        """
        placed: list[str] = []
        waiting = list(self.labels)
        while waiting:
            ready = next((name for name in waiting if not self._uses(name).intersection(waiting)), None)
            if ready is None:
                raise ConfigError(f"labels {', '.join(waiting)} need each other in a circle")
            waiting.remove(ready)
            placed.append(ready)
        return placed

    def _uses(self, source: str) -> set[str]:
        labeler = self.labels[source]
        return {*labeler.needs, *labeler.wants} - {source}

    def uses(self, sources: Iterable[str]) -> set[str]:
        """The labels that some labels are made from."""
        return {used for source in sources for used in self._uses(source) if used in self.labels}

    def made_from(self, source: str) -> dict[str, str]:
        """What tells the labels that one label is made from, by their names: a hash of who makes them, and of what."""
        used = sorted(self._uses(source).intersection(self.labels))
        facts = {name: [self.labels[name].identity(), self.made_from(name)] for name in used}
        return {
            name: hashlib.blake2b(json.dumps(fact).encode(), digest_size=8).hexdigest() for name, fact in facts.items()
        }

    def modalities(self) -> dict[str, Modality]:
        """What each folder holds, the photographs first."""
        return {IMAGE: self.image.modality()} | {
            source: labeler.modality(source) for source, labeler in self.labels.items()
        }

    def extensions(self) -> dict[str, str]:
        """Folder -> extension of its files."""
        labels = {source: labeler.extension for source, labeler in self.labels.items()}
        return {IMAGE: self.image.format, ORIGIN: "json", **labels}

    def templates(self) -> list[str]:
        """Templates of the user's files that labelers read."""
        return list(dict.fromkeys(template for labeler in self.labels.values() for template in labeler.files))

    def tables(self) -> list[Path]:
        """The user's files that labelers read of many photographs, where they are.

        Raises:
            ConfigError: if one is not there.
        """
        found = []
        for source, labeler in self.labels.items():
            try:
                found += [find_table(file, self.input) for file in labeler.tables]
            except ConfigError as error:
                raise ConfigError(f"labels.{source}: {error}") from None
        return found
