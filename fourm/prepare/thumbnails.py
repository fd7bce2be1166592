"""Images as short vectors: their thumbnails, which still tell a scene (tiny images, Torralba et al. 2008)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fourm.data.encode import npy
from fourm.data.images import open_image
from fourm.data.shards import NUM_SHARDS, ShardWriter, read_source_facts, shard_is_complete, write_source_facts
from fourm.data.source import open_source
from fourm.errors import DataError

SOURCE = "thumbnail"

_LOG = logging.getLogger(__name__)


def write_thumbnails(root: Path, *, image_source: str, side: int) -> None:
    """Write `ROOT/thumbnail`: one float32 vector of `side * side * colours` per image. Complete shards are skipped.

    Args:
        root: folder of the shards.
        image_source: folder of the images.
        side: pixels per side of a thumbnail.

    Raises:
        DataError: if the images are missing or damaged, or there are thumbnails of another kind already.
    """
    source = open_source(str(root), [image_source], "shards")
    facts = {"image_source": image_source, "side": side}
    found = read_source_facts(root, SOURCE)
    if {**found, **facts} != found and found:
        raise DataError(
            f"{root / SOURCE} holds thumbnails of {found.get('side')} pixels per side of "
            f"'{found.get('image_source')}', not {side} of '{image_source}'. Keep them, or remove that folder"
        )
    write_source_facts(root, SOURCE, {**facts, NUM_SHARDS: len(source.shard_sizes)})
    first = 0
    for shard, size in enumerate(source.shard_sizes):
        if not shard_is_complete(root, [SOURCE], shard, source.keys_digest(shard)):
            with ShardWriter(root, shard, {SOURCE: "npy"}) as writer:
                for n in range(first, first + size):
                    try:
                        vector = thumbnail(source.read(n)[image_source], side)
                    except (UnidentifiedImageError, OSError) as error:
                        where = source.where(n, image_source)
                        raise DataError(f"{where}: cannot read it as an image: {error}. Replace or remove it") from None
                    writer.write(source.key(n), {SOURCE: npy(vector)})
        first += size
    _LOG.info("%s: thumbnails of %d images", root / SOURCE, first)


def thumbnail(data: bytes, side: int) -> NDArray[np.float32]:
    """The mean colours of the squares of a grid.

    Args:
        data: an image file, grey or in colours.
        side: squares per side.

    Returns:
        (channels * side * side,) in [-1, 1]; one channel after another, row by row.
    """
    with open_image(data) as file:
        image = file if file.mode in ("L", "RGB") else file.convert("RGB")
        small = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)
    return (np.atleast_3d(small).transpose(2, 0, 1) / np.float32(127.5) - 1).ravel()
