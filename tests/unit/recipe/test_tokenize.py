"""Raw shards cut into their stored crops."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm import catalog
from fourm.data.index import keys_digest
from fourm.data.shards import ShardWriter, crops_digest, write_source_facts
from fourm.errors import DataError
from fourm.recipe.crop_shards import CropShards
from fourm.recipe.tokenize import _make_room
from fourm.tokenizers.base import tokenizer_folder


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(root: Path, num: int = 3, crops: np.ndarray | None = None, size: int = 64) -> Path:
    rng = np.random.default_rng(0)
    sources = {"canny": "png"} | ({"crop_settings": "npy"} if crops is not None else {})
    for shard, start in enumerate(range(0, num, 2)):
        with ShardWriter(root, shard, sources) as writer:
            for n in range(start, min(start + 2, num)):
                image = np.tile(rng.integers(0, 256, (1, size), np.uint8), (size, 1))
                sample = {"canny": png(image)} | ({"crop_settings": npy(crops)} if crops is not None else {})
                writer.write(f"{n:03d}", sample)
    return root


def test_samples_come_shard_by_shard_in_order(tmp_path: Path) -> None:
    reader = CropShards(write(tmp_path), catalog.get("canny@64"))

    assert list(reader.shard_sizes) == [2, 1]
    assert reader.keys_digest(1) == keys_digest(["002"])
    assert [[raw.key for raw in reader.read(shard)] for shard in range(2)] == [["000", "001"], ["002"]]


def test_without_stored_crops_there_is_the_centre_crop_alone(tmp_path: Path) -> None:
    raw = next(iter(CropShards(write(tmp_path), catalog.get("canny@64")).read(0)))

    assert raw.crops.shape == (1, 1, 64, 64)


def test_every_stored_crop_is_cut_and_mirrored(tmp_path: Path) -> None:
    crops = np.array([[0, 0, 64, 64, 0], [0, 0, 64, 64, 1], [0, 0, 32, 32, 0]])

    raw = next(iter(CropShards(write(tmp_path, crops=crops), catalog.get("canny@64")).read(0)))

    assert raw.crops.shape == (3, 1, 64, 64)
    assert np.array_equal(raw.crops[1], raw.crops[0][..., ::-1])
    # Twice as large: a column of the crop comes from the left half of the image.
    assert np.abs(raw.crops[2][0, 0, 0] - raw.crops[0][0, 0, 0]) < 0.2


@pytest.mark.parametrize("factor", [0.5, 1, 2])
@pytest.mark.parametrize("image_source", ["rgb", "photo"])
def test_crops_are_those_of_the_image_for_labels_of_any_resolution(
    tmp_path: Path, factor: float, image_source: str
) -> None:
    crops = np.array([[0, 0, 64, 64, 0], [0, 32, 32, 32, 0], [16, 0, 32, 64, 1]])
    corner = np.zeros((round(64 * factor), round(64 * factor)), np.uint8)
    corner[: len(corner) // 2, len(corner) // 2 :] = 255
    with ShardWriter(tmp_path, 0, {image_source: "png", "canny": "png", "crop_settings": "npy"}) as writer:
        image = np.zeros((64, 64, 3), np.uint8)
        writer.write("a", {image_source: png(image), "canny": png(corner), "crop_settings": npy(crops)})
    write_source_facts(tmp_path, "crop_settings", {"image_source": image_source})

    raw = next(iter(CropShards(tmp_path, catalog.get("canny@64")).read(0)))

    seen = raw.crops[:, 0] > 0
    assert seen[0].mean() == pytest.approx(0.25, abs=0.02)
    assert seen[1].all()
    assert seen[2][:32, :32].mean() > 0.95
    assert seen[2].mean() == pytest.approx(0.25, abs=0.02)


def test_the_content_of_a_shard_is_known_by_its_checksums(tmp_path: Path) -> None:
    crops = np.array([[0, 0, 64, 64, 0]])
    readers = [
        CropShards(write(tmp_path / "a", crops=crops), catalog.get("canny@64")),
        CropShards(write(tmp_path / "b", crops=crops), catalog.get("canny@64")),
        CropShards(write(tmp_path / "c", crops=crops + [[0, 1, 0, -1, 0]]), catalog.get("canny@64")),
    ]
    first, same, other = (reader.content_digest(0) for reader in readers)
    assert first
    assert first == same != other


def test_crops_that_do_not_fit_name_the_file(tmp_path: Path) -> None:
    reader = CropShards(write(tmp_path, crops=np.array([[0, 0, 99, 99, 0]])), catalog.get("canny@64"))

    with pytest.raises(DataError, match=r"canny/shard-00000\.tar, key '000'"):
        list(reader.read(0))


def test_damaged_crops_name_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    for shard, keys in enumerate((["000", "001"], ["002"])):
        with ShardWriter(tmp_path, shard, {"crop_settings": "npy"}) as writer:
            for key in keys:
                writer.write(key, {"crop_settings": b"damaged"})

    with pytest.raises(DataError, match=r"crop_settings/shard-00000\.tar, key '000'.*crop settings"):
        list(CropShards(tmp_path, catalog.get("canny@64")).read(0))


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_tokens_are_replaced(tmp_path: Path, overwrite: bool) -> None:
    write(tmp_path)
    before = sorted((tmp_path / "canny").iterdir())

    with pytest.raises(DataError, match=r"canny holds files that `fourm tokenize` did not make.*--source, or remove"):
        _make_room(tmp_path, "canny", overwrite, None)
    for outside in (".", "..", "canny/..", "../new"):
        with pytest.raises(DataError, match="leads out of"):
            _make_room(tmp_path, outside, overwrite, None)

    assert sorted((tmp_path / "canny").iterdir()) == before


def test_older_tokens_stay_unless_they_are_to_be_replaced(tmp_path: Path) -> None:
    write_source_facts(tmp_path, "tok_canny", {"tokenizer_hash": "a"})

    _make_room(tmp_path, "tok_canny", False, None)
    assert (tmp_path / "tok_canny" / "source.json").is_file()
    _make_room(tmp_path, "tok_canny", True, None)
    assert not (tmp_path / "tok_canny").exists()


def test_tokens_of_other_crops_are_not_added_to(tmp_path: Path) -> None:
    write(tmp_path, crops=np.array([[0, 0, 64, 64, 0]]))
    write_source_facts(tmp_path, "crop_settings", {"num_crops": 1, "seed": 0})
    first = crops_digest(tmp_path)
    write_source_facts(tmp_path, "tok_canny", {"tokenizer_hash": "a", "crop_settings": first})
    _make_room(tmp_path, "tok_canny", False, first)
    write_source_facts(tmp_path, "crop_settings", {"num_crops": 1, "seed": 1})

    with pytest.raises(DataError, match="tok_canny holds tokens made for other crops.*fourm tokenize --overwrite"):
        _make_room(tmp_path, "tok_canny", False, crops_digest(tmp_path))
    _make_room(tmp_path, "tok_canny", True, crops_digest(tmp_path))
    assert not (tmp_path / "tok_canny").exists()


def test_a_tokenizer_is_found_in_the_output_of_its_training(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()

    assert tokenizer_folder(tmp_path) == tmp_path / "model"
    assert tokenizer_folder(tmp_path / "model") == tmp_path / "model"
