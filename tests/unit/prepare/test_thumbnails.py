"""Images stored as short vectors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.data.decode import features
from fourm.data.shards import ShardWriter
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.prepare.thumbnails import SOURCE, thumbnail, write_thumbnails

VECTOR = Modality(SOURCE, Grid(1, 1), Continuous(12), SOURCE, "features", direction="input", channels=12)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images of 8 x 8 pixels in two shards, each of one grey value."""
    for shard, values in enumerate(((0, 255), (51,))):
        with ShardWriter(tmp_path, shard, {"rgb": "png"}) as writer:
            for value in values:
                writer.write(f"{value}", {"rgb": png(np.full((8, 8, 3), value))})
    return tmp_path


def test_a_thumbnail_holds_mean_values_channel_by_channel() -> None:
    pixels = np.zeros((4, 4, 3))
    pixels[:2, 2:, 1] = [[255, 255], [0, 0]]  # half green in the upper right square

    found = thumbnail(png(pixels), 2)

    assert found.dtype == np.float32
    assert found.reshape(3, 2, 2)[1, 0, 1] == pytest.approx(0, abs=0.01)
    assert np.delete(found, 5) == pytest.approx(-1)
    assert thumbnail(png(np.full((4, 4), 255)), 2) == pytest.approx(np.ones(4))


def test_every_image_becomes_one_vector_that_a_modality_reads(images: Path) -> None:
    write_thumbnails(images, image_source="rgb", side=2)

    source = open_source(str(images), ["rgb", SOURCE])
    vectors = np.stack([features(source.read(n)[SOURCE], VECTOR) for n in range(len(source))])
    assert vectors.shape == (3, 1, 12, 1, 1)
    assert vectors[:, 0, :, 0, 0] == pytest.approx(np.repeat([[-1], [1], [-0.6]], 12, 1))


def test_complete_shards_are_kept(images: Path) -> None:
    write_thumbnails(images, image_source="rgb", side=2)
    first = images / SOURCE / "shard-00000.tar"
    before = first.stat().st_mtime_ns

    write_thumbnails(images, image_source="rgb", side=2)

    assert first.stat().st_mtime_ns == before


def test_thumbnails_of_two_sizes_are_never_mixed(images: Path) -> None:
    write_thumbnails(images, image_source="rgb", side=2)

    with pytest.raises(DataError, match="thumbnails of 2 pixels per side of 'rgb', not 3"):
        write_thumbnails(images, image_source="rgb", side=3)


def test_a_damaged_image_is_named(images: Path) -> None:
    with ShardWriter(images, 1, {"rgb": "png"}) as writer:
        writer.write("broken", {"rgb": b"no image"})

    with pytest.raises(DataError, match=r"broken.*cannot read it as an image"):
        write_thumbnails(images, image_source="rgb", side=2)
