"""Features of other networks, a row for each stored crop."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.config import build
from fourm.data.decode import decode
from fourm.data.encode import npy
from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Grid
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.configs import CropSettingsConfig
from fourm.prepare.labelers.feature_configs import FeaturesConfig
from fourm.prepare.labelers.features import Features
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.recipe import PhotosRecipe
from fourm.recipe.crop_shards import CropShards
from fourm.tokenizers.teacher_configs import ImageBindConfig, TimmTeacherConfig
from fourm.tokenizers.teachers import build_teacher

TINY = TimmTeacherConfig(name="test_vit", pretrained=False)  # 64 numbers, patches of 16 pixels
MAP = FeaturesConfig(base="clip@224", teacher=TINY, dim=64, size=32)
SETTINGS = CropSettingsConfig().modality("crop_settings")


def photo(height: int = 40, width: int = 60, crops: list[list[int]] | None = None, seed: int = 0) -> Photo:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = {} if crops is None else {"crop_settings": npy(np.array(crops, np.int32))}
    return Photo("a", image, Origin("a.jpg", width, height), labels, {"crop_settings": SETTINGS})


def read(data: bytes, config: FeaturesConfig) -> Any:
    return decode(data, config.modality("mine"), lambda: "here")


def test_every_stored_crop_has_a_map_of_its_own() -> None:
    crops = [[0, 10, 40, 40, 0], [0, 10, 40, 40, 1], [5, 0, 20, 30, 0]]

    (data,) = Features(MAP, "cpu").label([photo(crops=crops)])

    assert np.load(io.BytesIO(data)).dtype == np.float16
    plain, mirrored, other = read(data, MAP)
    assert plain.shape == (64, 2, 2)
    assert not np.allclose(plain, mirrored, atol=0.01)
    assert not np.allclose(plain, other, atol=0.01)


def test_without_stored_crops_the_centre_counts() -> None:
    network = Features(MAP, "cpu")

    (alone,) = network.label([photo()])
    (centre,) = network.label([photo(crops=[[0, 10, 40, 40, 0]])])

    assert read(alone, MAP).shape == (1, 64, 2, 2)
    assert alone == centre


def test_photographs_of_a_batch_do_not_change_each_other() -> None:
    photos = [photo(40, 60, [[0, 0, 40, 40, 0], [0, 0, 9, 9, 1]], 1), photo(70, 33, seed=2), photo(20, 20, seed=3)]
    network = Features(replace(MAP, batch_size=3), "cpu")

    together = network.label(photos)

    for one, data in zip(photos, together, strict=True):
        (single,) = network.label([one])
        np.testing.assert_allclose(read(data, MAP), read(single, MAP), atol=5e-3)


@pytest.mark.parametrize("tokens", ["class", "pooled"])
def test_a_single_vector_is_a_modality_of_one_token(tokens: Any) -> None:
    config = FeaturesConfig(base="dinov2_global@224", teacher=replace(TINY, tokens=tokens), dim=64, size=32)

    (data,) = Features(config, "cpu").label([photo()])

    assert read(data, config).shape == (1, 64, 1, 1)
    assert config.modality("mine").layout == Grid(1, 1)


def test_the_modality_is_that_of_the_catalog_with_the_values_in_files() -> None:
    modality = FeaturesConfig(base="dinov2@224").modality("dinov2")

    assert (modality.source, modality.decode, modality.teacher) == ("dinov2", "features", None)
    assert (modality.layout, modality.content, modality.channels) == (Grid(16, 16), Continuous(768), 768)
    assert FeaturesConfig(base="imagebind_global@224").modality("x").map_size() == (1, 1)


def test_a_tokenizer_reads_the_values_that_its_teacher_would_make(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for n, (height, width) in enumerate([(50, 70), (64, 40)]):
        pixels = np.random.default_rng(n).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(photos / f"{n}.png")
    recipe = build(
        PhotosRecipe,
        {
            "input": str(photos),
            "output": str(tmp_path / "out"),
            "labels": {
                "crop_settings": {"num_crops": 4},
                "vit": {
                    "kind": "features", "base": "clip@224", "dim": 64, "size": 32,
                    "teacher": {"kind": "timm", "name": "test_vit", "pretrained": False},
                },
            },
            "device": "cpu",
            "seed": None,
        },
    )  # fmt: skip
    prepare_photos(recipe, workers=1, progress=False)

    images = MAP.images()
    teacher = build_teacher(images, TINY)
    assert teacher is not None
    from_files = list(CropShards(tmp_path / "out", recipe.modalities()["vit"]).read(0))
    from_teacher = list(CropShards(tmp_path / "out", images).read(0))

    assert [sample.key for sample in from_files] == ["0", "1"]
    for stored, computed in zip(from_files, from_teacher, strict=True):
        assert stored.crops.shape == (4, 64, 2, 2)
        np.testing.assert_allclose(stored.crops, teacher(torch.from_numpy(computed.crops)), rtol=2e-3, atol=2e-3)


def test_bf16_computes_almost_the_same() -> None:
    exact, rounded = (
        read(Features(replace(MAP, precision=precision), "cpu").label([photo()])[0], MAP)
        for precision in ("fp32", "bf16")
    )

    assert 0 < np.abs(exact - rounded).max() < 0.2


def test_weights_come_from_the_place_that_the_label_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"label of kind 'features': teacher.weights is '.*gone', which does not"):
        Features(replace(MAP, weights=tmp_path / "gone"), "cpu")
    with pytest.raises(CheckpointError, match=r"get imagebind_huge.pth from its authors.*set teacher.weights to it"):
        Features(FeaturesConfig(base="imagebind@224"), "cpu")
    small = ImageBindConfig(dim=32, depth=1, num_heads=2, image_size=28, pretrained=False)
    config = FeaturesConfig(base="imagebind@224", teacher=small, dim=32, size=28)
    assert read(Features(config, "cpu").label([photo()])[0], config).shape == (1, 32, 2, 2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"base is 'rgb@224', which is no feature of a network. Known: clip@224"):
        FeaturesConfig(base="rgb@224")
    with pytest.raises(ConfigError, match=r"size is 225, which does not divide by the 16 pixels"):
        FeaturesConfig(size=225)
    with pytest.raises(ConfigError, match=r"declares 512 numbers.*its teacher makes 64 numbers"):
        Features(replace(MAP, dim=None), "cpu")


def test_features_of_other_networks_are_other_labels_wherever_their_weights_lie() -> None:
    same = replace(MAP, weights=Path("x"), batch_size=2, precision="bf16")

    assert same.identity() == MAP.identity()
    assert replace(MAP, teacher=replace(TINY, output="blocks")).identity() != MAP.identity()
    assert FeaturesConfig(base="clip@224").identity() != FeaturesConfig(base="dinov2@224").identity()
