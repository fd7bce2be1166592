"""Crops stored beside the data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.data.decode import crop_settings
from fourm.data.shards import ShardWriter, crops_digest, read_source_facts
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.prepare.crops import SOURCE, write_crops


def write_images(root: Path, keys: str = "abc") -> None:
    for shard, start in enumerate(range(0, len(keys), 2)):
        with ShardWriter(root, shard, {"rgb": "png"}) as writer:
            for key in keys[start : start + 2]:
                buffer = io.BytesIO()
                Image.new("RGB", (40, 20)).save(buffer, "PNG")
                writer.write(key, {"rgb": buffer.getvalue()})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, 40 wide and 20 high, in two shards."""
    write_images(tmp_path)
    return tmp_path


def stored(root: Path) -> np.ndarray:
    source = open_source(str(root), [SOURCE])
    return np.stack([crop_settings(source.read(n)[SOURCE]) for n in range(len(source))])


def test_the_centre_comes_first_and_random_crops_lie_in_the_image(images: Path) -> None:
    write_crops(images, image_source="rgb", num_crops=6, min_scale=0.2)

    crops = stored(images)

    assert crops.shape == (3, 6, 5)
    assert (crops[:, 0] == [0, 10, 20, 20, 0]).all()
    assert (crops[..., :2] >= 0).all()
    assert (crops[..., 0] + crops[..., 2] <= 20).all()
    assert (crops[..., 1] + crops[..., 3] <= 40).all()
    assert len(np.unique(crops[:, 1:].reshape(-1, 5), axis=0)) > 10


def test_a_scale_of_one_only_mirrors(images: Path) -> None:
    write_crops(images, image_source="rgb", num_crops=2, hflip=1.0)

    assert (stored(images)[:, 1] == [0, 10, 20, 20, 1]).all()


def test_the_aspect_is_width_over_height(images: Path) -> None:
    write_crops(images, image_source="rgb", num_crops=1, aspect=2.0)

    assert (stored(images)[:, 0] == [0, 0, 20, 40, 0]).all()


def test_crops_are_a_function_of_seed_and_key(images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "other", "bcd")
    for root in (images, tmp_path / "other"):
        write_crops(root, image_source="rgb", num_crops=4, min_scale=0.2, seed=3)

    assert np.array_equal(stored(images)[1:], stored(tmp_path / "other")[:2])


def test_complete_shards_are_kept_and_those_of_other_images_written_again(images: Path) -> None:
    write_crops(images, image_source="rgb", num_crops=2)
    first = images / SOURCE / "shard-00000.tar"
    before = first.stat().st_mtime_ns

    write_crops(images, image_source="rgb", num_crops=2)
    assert first.stat().st_mtime_ns == before

    write_images(images, "xyz")
    write_crops(images, image_source="rgb", num_crops=2)
    assert open_source(str(images), ["rgb", SOURCE]).key(0) == "x"


def test_more_images_bring_more_shards_of_the_same_crops(images: Path) -> None:
    write_crops(images, image_source="rgb", num_crops=2)
    assert read_source_facts(images, SOURCE)["num_shards"] == 2
    before = crops_digest(images)

    write_images(images, "abcdef")
    write_crops(images, image_source="rgb", num_crops=2)
    assert read_source_facts(images, SOURCE)["num_shards"] == 3
    assert crops_digest(images) == before


def test_other_settings_are_refused(images: Path) -> None:
    write_crops(images, image_source="rgb", num_crops=2)

    with pytest.raises(DataError, match="holds crops with num_crops 2, not 10"):
        write_crops(images, image_source="rgb", num_crops=10)


def test_a_damaged_image_is_named(images: Path) -> None:
    with ShardWriter(images, 1, {"rgb": "png"}) as writer:
        writer.write("c", {"rgb": b"not an image"})

    with pytest.raises(DataError, match=r"rgb/shard-00001\.tar, key 'c'"):
        write_crops(images, image_source="rgb", num_crops=2)
    assert not (images / SOURCE / "shard-00001.tar").exists()
