from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.data.configs import CropConfig, DatasetConfig
from fourm.data.dataset import AlignedDataset, build_dataset, check_tokens, source_folders
from fourm.data.shards import ShardWriter, crops_digest, write_source_facts
from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.rng import generator


@pytest.fixture
def modalities(data: type) -> ModalitySet:
    return data.modalities


def build(path: Path, modalities: ModalitySet, encoders: Any = None, **config: Any) -> AlignedDataset:
    return build_dataset("rooms", DatasetConfig(str(path), **config), modalities, encoders)


def test_a_sample_has_every_modality_in_its_form(shards: Path, modalities: ModalitySet) -> None:
    sample = build(shards, modalities).sample(3, generator(0))
    assert list(sample) == list(modalities)
    assert {name: (v.shape, v.dtype.name) for name, v in sample.items() if isinstance(v, np.ndarray)} == {
        "rgb": ((3, 16, 16), "float32"),
        "depth": ((1, 16, 16), "float32"),
        "normal": ((3, 16, 16), "float32"),
        "semseg": ((16, 16), "int64"),
        "tok_rgb": ((4,), "int64"),
    }
    assert sample["caption"] in ("sample 3 left", "number 3 left")
    assert [box["class_name"] for box in sample["det"]] == ["bed"]
    assert sample["tok_rgb"].tolist() == [3] * 4


def test_images_come_at_another_resolution_with_the_same_crop(shards: Path, modalities: ModalitySet) -> None:
    images = modalities.subset(["rgb", "semseg"])
    dataset = build(shards, images, crop=CropConfig("random_resized"), hflip=0.5)
    dataset.check_resolutions((8, 32))
    own, small, large = (dataset.sample(3, generator(1), resolution) for resolution in (None, 8, 32))
    assert (own["rgb"].shape, small["rgb"].shape, large["semseg"].shape) == ((3, 16, 16), (3, 8, 8), (32, 32))
    shrunk = own["rgb"].reshape(3, 8, 2, 8, 2).mean((2, 4))
    mirrored = shrunk[..., ::-1]
    assert np.abs(small["rgb"] - shrunk).mean() < 0.7 * np.abs(small["rgb"] - mirrored).mean()


def test_tokens_cannot_follow_another_resolution(shards: Path, modalities: ModalitySet) -> None:
    dataset = build(shards, modalities.subset(["rgb", "tok_rgb"]))
    dataset.check_resolutions(())
    with pytest.raises(ConfigError, match="'tok_rgb' cannot follow"):
        dataset.check_resolutions((8,))


def test_a_sample_depends_on_its_number_and_generator_only(shards: Path, modalities: ModalitySet) -> None:
    dataset = build(shards, modalities, crop=CropConfig("crop_settings"), jitter=0.2)
    first = [dataset.sample(n, generator(7, n)) for n in range(8)]
    again = [dataset.sample(n, generator(7, n)) for n in reversed(range(8))][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_equal(a, b)


def test_stored_crops_hold_for_pixels_tokens_boxes_and_words(shards: Path, modalities: ModalitySet) -> None:
    plain = build(shards, modalities).sample(5, generator(0))
    dataset = build(shards, modalities, crop=CropConfig("crop_settings"), mirror_words=True)
    samples = [dataset.sample(5, generator(seed)) for seed in range(20)]
    mirrored = [s for s in samples if s["tok_rgb"][0] == 105]
    assert 0 < len(mirrored) < 20
    for sample in mirrored:
        np.testing.assert_array_equal(sample["rgb"], plain["rgb"][..., ::-1])
        np.testing.assert_array_equal(sample["semseg"], plain["semseg"][..., ::-1])
        assert sample["det"][0]["boxes"] == [0.75, 0.25, 1.0, 0.75]
        assert sample["caption"].endswith("right")
    for sample in samples:
        assert sample["caption"].endswith("left") == (sample["tok_rgb"][0] == 5)


def test_encoders_turn_text_and_boxes_into_ids(shards: Path, modalities: ModalitySet) -> None:
    encoders = {
        "caption": lambda text, rng: np.array([len(text)]),
        "det": lambda boxes, rng: np.array([len(boxes), rng.integers(5, 6)]),
        "not_in_this_set": lambda value, rng: value,
    }
    sample = build(shards, modalities, encoders).sample(3, generator(0))
    assert sample["caption"].tolist() == [13]
    assert sample["det"].tolist() == [1, 5]


def test_folders_give_the_same_samples_as_shards(tmp_path: Path, data: type, modalities: ModalitySet) -> None:
    names = ["rgb", "semseg", "tok_rgb"]
    chosen = modalities.subset(names)
    folders = build(data.write_folders(tmp_path / "folders", 4, names), chosen)
    shards = build(data.write_shards(tmp_path / "shards", [4], names), chosen)
    for n, same in enumerate([0, 2, 1, 3]):  # folders are sorted by class
        np.testing.assert_equal(folders.sample(n, generator(0)), shards.sample(same, generator(0)))


def test_a_data_set_may_have_only_some_of_the_modalities(shards: Path, modalities: ModalitySet) -> None:
    config = DatasetConfig(str(shards), modalities=("caption", "rgb"))
    sample = build_dataset("rooms", config, modalities).sample(0, generator(0))
    assert list(sample) == ["caption", "rgb"]


def test_two_modalities_may_share_a_source(shards: Path, modalities: ModalitySet) -> None:
    other = dataclasses.replace(modalities["rgb"], name="rgb_none", normalization="none")
    sample = build(shards, ModalitySet([modalities["rgb"], other])).sample(0, generator(0))
    np.testing.assert_allclose(sample["rgb"], sample["rgb_none"] * 2 - 1, atol=1e-6)


def test_folders_may_have_other_names(shards: Path, modalities: ModalitySet) -> None:
    (shards / "rgb").rename(shards / "photos")
    dataset = build(shards, modalities, modality_name_map={"photos": "rgb"})
    assert dataset.sample(0, generator(0))["rgb"].shape == (3, 16, 16)


def test_a_map_to_an_unknown_modality_is_an_error(modalities: ModalitySet) -> None:
    config = DatasetConfig("x", modality_name_map={"photos": "rbg"})
    with pytest.raises(ConfigError, match="'photos' to 'rbg'.*Did you mean 'rgb'"):
        source_folders("rooms", config, modalities)


def test_only_the_first_samples_are_used_when_limited(shards: Path, modalities: ModalitySet) -> None:
    dataset = build(shards, modalities, max_samples=6)
    assert len(dataset) == 6
    assert dataset.shard_sizes == [5, 1]
    assert len(build(shards, modalities, max_samples=100)) == 8


def test_a_part_of_the_shards_is_a_data_set(shards: Path, modalities: ModalitySet) -> None:
    whole, last = build(shards, modalities), build(shards, modalities, shards=(1, 1))
    assert last.shard_sizes == [3]
    assert last.sample(0, generator(0))["caption"] == whole.sample(5, generator(0))["caption"]
    with pytest.raises(ConfigError, match="first and the last"):
        build(shards, modalities, shards=(1, 0))


def test_data_without_images_still_mirrors_words_with_tokens(shards: Path, modalities: ModalitySet) -> None:
    dataset = build(
        shards, modalities.subset(["tok_rgb", "caption"]), crop=CropConfig("crop_settings"), mirror_words=True
    )
    samples = [dataset.sample(5, generator(seed)) for seed in range(10)]
    assert {(int(s["tok_rgb"][0]), s["caption"].split()[-1]) for s in samples} == {(5, "left"), (105, "right")}


@pytest.mark.parametrize("config", [{"crop": CropConfig("random_resized")}, {"hflip": 0.5}])
def test_tokens_made_beforehand_cannot_follow_new_crops(shards: Path, modalities: ModalitySet, config: Any) -> None:
    with pytest.raises(ConfigError, match=r"tok_rgb holds tokens made beforehand.*crop\.kind: crop_settings"):
        build(shards, modalities, **config)


@pytest.mark.parametrize("config", [{"crop": CropConfig("random_resized")}, {"hflip": 0.5}])
def test_maps_of_features_made_beforehand_cannot_follow_new_crops_and_vectors_need_not(
    tmp_path: Path, data: type, modalities: ModalitySet, config: Any
) -> None:
    data.write_shards(tmp_path, [2], ["rgb"])
    with ShardWriter(tmp_path, 0, {"vector": "npy", "map": "npy"}) as writer:
        for n in range(2):
            writer.write(f"{n:06d}", {"vector": data.npy(np.full(3, n)), "map": data.npy(np.full((3, 2, 2), n))})
    vector, map_ = (
        Modality(name, Grid(size, size), Continuous(3), name, "features", channels=3, direction="input")
        for name, size in (("vector", 1), ("map", 2))
    )

    dataset = build(tmp_path, ModalitySet([modalities["rgb"], vector]), **config)
    assert dataset.sample(1, np.random.default_rng(0))["vector"].tolist() == [[[1]]] * 3
    with pytest.raises(ConfigError, match="map holds a map of features made beforehand.*crop_settings"):
        build(tmp_path, ModalitySet([modalities["rgb"], map_]), **config)


def test_boxes_alone_cannot_be_cropped(shards: Path, modalities: ModalitySet) -> None:
    with pytest.raises(ConfigError, match="needs an image"):
        build(shards, modalities.subset(["det"]), crop=CropConfig("crop_settings"))


def test_an_empty_data_set_is_an_error(tmp_path: Path, data: type, modalities: ModalitySet) -> None:
    with pytest.raises(DataError, match="'rooms'.*is empty"):
        build(data.write_shards(tmp_path, [0]), modalities)


def test_missing_stored_crops_name_the_folder(tmp_path: Path, data: type, modalities: ModalitySet) -> None:
    root = data.write_shards(tmp_path, [2], ["rgb", "tok_rgb"])
    with pytest.raises(DataError, match="no 'crop_settings'"):
        build(root, modalities.subset(["rgb", "tok_rgb"]), crop=CropConfig("crop_settings"))


def rewrite(root: Path, source: str, extension: str, content: bytes, keys: range = range(5)) -> None:
    with ShardWriter(root, 0, {source: extension}) as writer:
        for n in keys:
            writer.write(f"{n:06d}", {source: content})


def test_a_corrupt_image_names_shard_key_modality_and_remedy(shards: Path, modalities: ModalitySet) -> None:
    rewrite(shards, "depth", "png", b"\x89PNG broken")
    expected = r"depth/shard-00000\.tar, key '000002': .* modality 'depth': .*Make this file again"
    with pytest.raises(DataError, match=expected):
        build(shards, modalities).sample(2, generator(0))


def test_corrupt_stored_crops_name_shard_and_key(shards: Path, modalities: ModalitySet) -> None:
    rewrite(shards, "crop_settings", "npy", b"broken")
    with pytest.raises(DataError, match=r"crop_settings/shard-00000\.tar, key '000001': .*crop settings"):
        build(shards, modalities, crop=CropConfig("crop_settings")).sample(1, generator(0))


def test_stored_crops_of_another_image_size_name_the_sample(shards: Path, data: type, modalities: ModalitySet) -> None:
    rewrite(shards, "crop_settings", "npy", data.npy(np.array([[0, 0, 17, 16, 0]])))
    with pytest.raises(DataError, match="key '000001': stored crop 0 .* lies outside"):
        build(shards, modalities, crop=CropConfig("crop_settings")).sample(1, generator(0))


def test_too_few_rows_of_tokens_name_the_sample(shards: Path, data: type, modalities: ModalitySet) -> None:
    rewrite(shards, "crop_settings", "npy", data.npy(np.array([[0, 0, 16, 16, 0]] * 50)))
    dataset = build(shards, modalities, crop=CropConfig("crop_settings"))
    with pytest.raises(DataError, match=r"tok_rgb/shard-00000\.tar, key '000001': modality 'tok_rgb' .*holds 2 rows"):
        dataset.sample(1, generator(1))


def test_images_of_another_shape_name_the_sample(shards: Path, data: type, modalities: ModalitySet) -> None:
    rewrite(shards, "semseg", "png", data.png(np.zeros((16, 32), np.uint8)))
    with pytest.raises(DataError, match=r"semseg/shard-00000\.tar, key '000000': .*16 x 32"):
        build(shards, modalities).sample(0, generator(0))


def test_a_data_set_can_be_used_from_another_folder(shards: Path, modalities: ModalitySet, monkeypatch: Any) -> None:
    monkeypatch.chdir(shards.parent)
    assert len(build(Path(os.path.relpath(shards)), modalities)) == 8


@pytest.mark.parametrize("form", ["{root}", "{root}/[rgb,tok_rgb]/shard-{{00000..00001}}.tar"])
def test_tokens_are_checked_against_the_recipes_tokenizer(shards: Path, modalities: ModalitySet, form: str) -> None:
    config = DatasetConfig(form.format(root=shards), modalities=("rgb", "tok_rgb"))
    write_source_facts(shards, "tok_rgb", {"tokenizer_hash": "aaa"})
    check_tokens("rooms", config, modalities, {"tok_rgb": "aaa", "tok_depth": "zzz"})
    with pytest.raises(DataError, match="made with another tokenizer: its hash is aaa.*bbb.*fourm tokenize"):
        check_tokens("rooms", config, modalities, {"tok_rgb": "bbb"})


@pytest.mark.parametrize("form", ["{root}", "{root}/[tok_rgb,crop_settings]/shard-{{00000..00001}}.tar"])
@pytest.mark.parametrize("facts", [{}, {"seed": 0}])
def test_tokens_are_checked_against_the_stored_crops(
    shards: Path, modalities: ModalitySet, form: str, facts: dict[str, int]
) -> None:
    config = DatasetConfig(form.format(root=shards), modalities=("tok_rgb",), crop=CropConfig("crop_settings"))
    if facts:
        write_source_facts(shards, "crop_settings", facts)
    write_source_facts(shards, "tok_rgb", {"tokenizer_hash": "aaa", "crop_settings": crops_digest(shards)})
    check_tokens("rooms", config, modalities, {"tok_rgb": "aaa"})

    write_source_facts(shards, "crop_settings", {"seed": 1})
    with pytest.raises(DataError, match="set/tok_rgb holds tokens made for other crops.*fourm tokenize --overwrite"):
        check_tokens("rooms", config, modalities, {"tok_rgb": "aaa"})
    check_tokens("rooms", DatasetConfig(config.path, modalities=("tok_rgb",)), modalities, {"tok_rgb": "aaa"})
    write_source_facts(shards, "tok_rgb", {"tokenizer_hash": "aaa"})
    check_tokens("rooms", config, modalities, {"tok_rgb": "aaa"})


def test_tokens_are_checked_in_the_folder_the_map_names(shards: Path, modalities: ModalitySet) -> None:
    write_source_facts(shards, "tokens_v2", {"tokenizer_hash": "aaa"})
    config = DatasetConfig(str(shards), modality_name_map={"tokens_v2": "tok_rgb"})
    with pytest.raises(DataError, match="tokens_v2"):
        check_tokens("rooms", config, modalities, {"tok_rgb": "bbb"})


def test_a_whole_image_keeps_its_shape_when_it_is_fitted(tmp_path: Path, data: type) -> None:
    """The shorter side gets the length that the modality declares; label maps follow."""
    rng = np.random.default_rng(0)
    for source, shape in (("rgb", (20, 40, 3)), ("semseg", (20, 40))):
        (tmp_path / source).mkdir()
        (tmp_path / source / "a.png").write_bytes(data.png(rng.integers(0, 3, shape, np.uint8)))
    images = data.modalities.subset(["rgb", "semseg"])

    sample = build(tmp_path, images, crop=CropConfig("fit")).sample(0, generator(0))

    assert (sample["rgb"].shape, sample["semseg"].shape) == ((3, 16, 32), (16, 32))


def test_the_class_of_a_sample_can_be_its_folder(tmp_path: Path, data: type) -> None:
    for name in ("dog/1", "cat/1", "cat/2"):
        path = tmp_path / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.png(np.zeros((16, 16, 3), np.uint8)))
    label = Modality(
        "label", Sequence(1), Discrete(2), "label", "class_folder", direction="input", classes=("cat", "dog")
    )
    modalities = ModalitySet([data.modalities["rgb"], label])

    dataset = build(tmp_path, modalities, modality_name_map={"train": "rgb"})

    assert [int(dataset.sample(n, generator(0))["label"]) for n in range(3)] == [0, 0, 1]


def test_photographs_alone_are_augmented(shards: Path, modalities: ModalitySet) -> None:
    images = modalities.subset(["rgb", "depth", "semseg"])
    plain, changed = (
        build(shards, images, rand_augment=policy, erase=float(policy is not None)).sample(2, generator(4))
        for policy in (None, "rand-m9-mstd0.5-inc1")
    )

    assert not np.array_equal(plain["rgb"], changed["rgb"])
    assert np.array_equal(plain["depth"], changed["depth"])
    assert np.array_equal(plain["semseg"], changed["semseg"])
