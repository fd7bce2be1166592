"""Crops stored with the data, so that tokens made beforehand and raw images are cut alike (4M's `crop_settings`)."""

from __future__ import annotations

import logging
from pathlib import Path

from fourm.data.configs import CropConfig
from fourm.data.decode import image_size
from fourm.data.encode import npy
from fourm.data.geometry import draw_settings
from fourm.data.shards import CROPS as SOURCE
from fourm.data.shards import (
    IMAGE_SOURCE,
    NUM_SHARDS,
    ShardWriter,
    read_source_facts,
    shard_is_complete,
    write_source_facts,
)
from fourm.data.source import Source, open_source
from fourm.errors import DataError
from fourm.rng import generator

_LOG = logging.getLogger(__name__)


def write_crops(
    root: Path,
    *,
    image_source: str,
    num_crops: int,
    min_scale: float = 1.0,
    hflip: float = 0.5,
    aspect: float = 1.0,
    seed: int = 0,
) -> None:
    """Write `ROOT/crop_settings`: for each sample the centre crop, then random ones. Complete shards are skipped.

    Args:
        root: folder of the shards.
        image_source: folder of the images whose sizes count.
        num_crops: crops per sample.
        min_scale: smallest share of the image's area in a random crop; 1 keeps the centre crop.
        hflip: probability of mirroring a random crop.
        aspect: width : height of the crops.
        seed: the crops of a sample are a pure function of it and the sample's key.

    Raises:
        DataError: if the images are missing or damaged, or there are crops of other settings already.
    """
    source = open_source(str(root), [image_source], "shards")
    facts = {"num_crops": num_crops, "min_scale": min_scale, "hflip": hflip, "aspect": aspect, "seed": seed}
    _check_facts(root, facts)
    write_source_facts(root, SOURCE, {**facts, IMAGE_SOURCE: image_source, NUM_SHARDS: len(source.shard_sizes)})
    crop = CropConfig("random_resized", scale=(min_scale, 1.0)) if min_scale < 1 else CropConfig("none")
    first = 0
    for shard, size in enumerate(source.shard_sizes):
        if not shard_is_complete(root, [SOURCE], shard, source.keys_digest(shard)):
            with ShardWriter(root, shard, {SOURCE: "npy"}) as writer:
                for n in range(first, first + size):
                    key = source.key(n)
                    rng = generator(seed, "crops", key)
                    settings = draw_settings(
                        num_crops, _image_size(source, n, image_source), (1000, round(1000 * aspect)), rng, crop, hflip
                    )
                    writer.write(key, {SOURCE: npy(settings)})
        first += size
    _LOG.info("%s: %d crops for each of %d samples", root / SOURCE, num_crops, first)


def _check_facts(root: Path, facts: dict[str, float]) -> None:
    """Tokens may have been made for the crops that are there, so these are never mixed with others."""
    found = read_source_facts(root, SOURCE)
    for name, value in facts.items():
        if found.get(name, value) != value:
            raise DataError(
                f"{root / SOURCE} holds crops with {name} {found[name]}, not {value}. Keep them, or remove that folder "
                "and make new crops and tokens"
            )


def _image_size(source: Source, n: int, name: str) -> tuple[int, int]:
    data = source.read(n)[name]
    try:
        return image_size(data)
    except (OSError, DataError) as error:
        raise DataError(f"{source.where(n, name)}: cannot read it as an image: {error}. Replace or remove it") from None
