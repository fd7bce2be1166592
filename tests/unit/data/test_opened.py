"""Opened samples: the values of whole ones, of which only what is asked for is decoded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data import decode
from fourm.data.configs import CropConfig, DatasetConfig
from fourm.data.dataset import AlignedDataset, build_dataset
from fourm.data.loader import Loader
from fourm.data.mixture import Mixture
from fourm.data.shards import ShardWriter
from fourm.errors import DataError
from fourm.modality import ModalitySet
from fourm.objectives.configs import MaskComponent, MaskedConfig
from fourm.objectives.masked import Masked
from fourm.objectives.table import select_patches
from fourm.rng import generator


def open_data(path: Path, modalities: ModalitySet, encoders: Any = None, **config: Any) -> AlignedDataset:
    return build_dataset("set", DatasetConfig(str(path), **config), modalities, encoders)


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def photographs(tmp_path: Path, data: type) -> Path:
    """Four samples of a JPEG of 24 x 32 pixels, tokens and captions."""
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "set", 0, {"rgb": "jpg", "tok_rgb": "npy", "caption": "json"}) as writer:
        for n in range(4):
            sample = data.make_sample(n) | {"rgb": jpeg(rng.integers(0, 256, (24, 32, 3), np.uint8))}
            writer.write(f"{n}", {name: sample[name] for name in ("rgb", "tok_rgb", "caption")})
    return tmp_path / "set"


@pytest.mark.parametrize("crop", ["none", "crop_settings"])
def test_values_do_not_depend_on_which_are_asked_for_nor_on_their_order(shards: Path, data: type, crop: Any) -> None:
    encoders = {
        "caption": lambda text, rng: np.array([len(text), rng.integers(1000)]),
        "det": lambda boxes, rng: np.array([len(boxes), rng.integers(1000)]),
    }
    dataset = open_data(shards, data.modalities, encoders, crop=CropConfig(crop), jitter=0.3, erase=0.5)
    for n in range(8):
        whole = dataset.sample(n, generator(n))
        backwards = dataset.open(n, generator(n))
        for name in reversed(list(whole)):
            np.testing.assert_equal(backwards[name], whole[name])
        for name in whole:
            np.testing.assert_equal(dataset.open(n, generator(n))[name], whole[name])


def test_what_is_not_asked_for_is_not_decoded(photographs: Path, data: type, monkeypatch: Any) -> None:
    decoded = []
    for kind, decoder in dict(decode.DECODERS).items():

        def noted(content: bytes, modality: Any, kind: str = kind, decoder: Any = decoder) -> Any:
            decoded.append(kind)
            return decoder(content, modality)

        monkeypatch.setitem(decode.DECODERS, kind, noted)
    modalities = data.modalities.subset(["rgb", "tok_rgb", "caption"])
    opened = open_data(photographs, modalities, crop=CropConfig("center")).open(1, generator(0))
    decoded.clear()  # a caption is chosen at once
    assert list(opened) == ["rgb", "tok_rgb", "caption"]
    assert len(opened) == 3
    assert "rgb" in opened
    assert "depth" not in opened
    assert decoded == []
    assert opened["tok_rgb"].tolist() == opened["tok_rgb"].tolist() == [1] * 4
    assert decoded == ["tokens"]


def test_patches_are_those_of_the_whole_image(photographs: Path, shards: Path, data: type) -> None:
    for path, crop in ((photographs, "random_resized"), (photographs, "center"), (shards, "crop_settings")):
        names = [name for name in ("rgb", "normal", "depth") if (path / name).is_dir()]
        dataset = open_data(path, data.modalities.subset(names), crop=CropConfig(crop))
        for n in range(4):
            opened, whole = dataset.open(n, generator(n)), dataset.sample(n, generator(n))
            for name in names:
                places = np.array([3, 0, 2])
                found = opened.patches(data.modalities[name], places)
                if name == "depth":
                    assert found is None, "a logarithm is not taken patch by patch"
                else:
                    assert found is not None
                    np.testing.assert_array_equal(found, select_patches(whole[name], data.modalities[name], places))
                np.testing.assert_array_equal(opened[name], whole[name])


def test_few_patches_of_a_photograph_are_those_of_the_whole_within_two_levels(photographs: Path, data: type) -> None:
    rgb = data.modalities["rgb"]
    for crop, hflip in (("random_resized", 0.5), ("center", 0.0), ("none", 1.0)):
        dataset = open_data(photographs, ModalitySet([rgb]), crop=CropConfig(crop), hflip=hflip)
        for n in [0, 1, 2, 3] * 3:
            whole = dataset.sample(n, generator(n, crop))["rgb"]
            for place in range(rgb.num_tokens):
                found = dataset.open(n, generator(n, crop)).patches(rgb, np.array([place]))
                expected = select_patches(whole, rgb, np.array([place]))
                assert found is not None
                assert (found.shape, found.dtype) == (expected.shape, np.float32)
                assert np.abs(found - expected).max() * 127.5 < 2.01


def test_patches_of_an_image_whose_colours_are_jittered_are_cut_from_the_whole(photographs: Path, data: type) -> None:
    rgb = data.modalities["rgb"]
    opened = open_data(photographs, data.modalities.subset(["rgb"]), crop=CropConfig("center"), jitter=0.2)
    assert opened.open(0, generator(0)).patches(rgb, np.array([0])) is None


def test_masking_gives_the_same_tables_from_opened_samples(shards: Path, data: type) -> None:
    modalities = data.modalities.subset(["rgb", "tok_rgb"])
    dataset = open_data(shards, modalities, crop=CropConfig("crop_settings"))
    components = [MaskComponent(input_alphas={"*": 0.1}, target_alphas={"*": 1.0})]
    objective = Masked(MaskedConfig(num_input_tokens=4, num_target_tokens=4, components=components), modalities)
    for n in [0, 1, 2, 3] * 5:
        (opened, targets), (whole, same) = (
            objective.prepare(read(n, generator(n)), generator(n, "mask")) for read in (dataset.open, dataset.sample)
        )
        np.testing.assert_equal(vars(opened), vars(whole))
        np.testing.assert_equal(vars(targets), vars(same))


def test_a_damaged_photograph_is_told_when_it_is_shown_and_only_then(tmp_path: Path, data: type) -> None:
    sample = data.make_sample(0)
    with ShardWriter(tmp_path / "set", 0, {"rgb": "jpg", "tok_rgb": "npy"}) as writer:
        photograph = jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        writer.write("0", {"rgb": photograph[: len(photograph) // 2], "tok_rgb": sample["tok_rgb"]})
    modalities = data.modalities.subset(["rgb", "tok_rgb"])
    dataset = open_data(tmp_path / "set", modalities, crop=CropConfig("center"))

    def load(alphas: dict[str, float]) -> Any:
        config = MaskedConfig(4, 4, components=[MaskComponent(input_alphas=alphas, target_alphas={"*": 1.0})])
        objective = Masked(config, modalities)
        return next(iter(Loader(Mixture({"set": dataset}), objective.prepare, objective.collate, batch_size=2)))

    load({"tok_rgb": 1.0})
    with pytest.raises(DataError) as error:
        load({"rgb": 1.0})
    assert str(error.value).count("key '0'") == 1
    assert "for modality 'rgb'" in str(error.value)


def test_an_objective_s_own_complaint_says_where_the_sample_is(photographs: Path, data: type) -> None:
    dataset = open_data(photographs, data.modalities.subset(["tok_rgb"]))

    def refuse(sample: Any, rng: Any) -> Any:
        raise DataError(f"it has {len(sample['tok_rgb'])} tokens")

    with pytest.raises(DataError, match=r"data set 'set', .*shard-00000.*: it has 4 tokens"):
        next(iter(Loader(Mixture({"set": dataset}), refuse, list, batch_size=1)))


@pytest.mark.parametrize("workers", [0, 2])
def test_another_sample_takes_the_place_of_a_damaged_one_whoever_loads_it(
    tmp_path: Path, data: type, workers: int
) -> None:
    with ShardWriter(tmp_path / "set", 0, {"tok_rgb": "npy"}) as writer:
        for n in range(6):
            writer.write(f"{n}", {"tok_rgb": data.make_sample(n)["tok_rgb"][: 10 if n in (2, 3) else None]})
    dataset = open_data(tmp_path / "set", data.modalities.subset(["tok_rgb"]))

    def numbers(skip: bool, count: int) -> list[int]:
        take: Any = lambda sample, rng: int(sample["tok_rgb"][0])  # noqa: E731
        loader = Loader(Mixture({"set": dataset}), take, list, batch_size=6, num_workers=workers, skip_damaged=skip)
        return [n for (batch, _), _ in zip(loader, range(count)) for n in batch]

    with pytest.raises(DataError, match="cannot read it as 'tokens'"):
        numbers(skip=False, count=1)
    found = numbers(skip=True, count=3)
    assert found == numbers(skip=True, count=3)
    for epoch in range(3):
        assert set(found[6 * epoch : 6 * epoch + 6]) >= {0, 1, 4, 5}
    assert len(found) == 18


def test_data_of_which_nothing_can_be_read_ends_in_an_error(tmp_path: Path, data: type) -> None:
    with ShardWriter(tmp_path / "set", 0, {"tok_rgb": "npy"}) as writer:
        writer.write("0", {"tok_rgb": b"nothing"})
    dataset = open_data(tmp_path / "set", data.modalities.subset(["tok_rgb"]))
    prepare: Any = lambda sample, rng: sample["tok_rgb"]  # noqa: E731
    loader = Loader(Mixture({"set": dataset}), prepare, list, batch_size=1, skip_damaged=True)
    with pytest.raises(DataError, match="100 samples in a row are damaged, the last one: .*key '0'"):
        next(iter(loader))
