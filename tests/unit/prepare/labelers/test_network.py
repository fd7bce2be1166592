"""What labelers with networks have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

import huggingface_hub
import transformers
from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessor

from fourm.catalog import MODALITIES
from fourm.data.index import load_index
from fourm.data.shards import shard_path
from fourm.errors import CheckpointError, MissingExtraError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import LABELER_KINDS
from fourm.prepare.labelers.depth import Depth
from fourm.prepare.labelers.network import Inputs, Network
from fourm.prepare.labelers.network_configs import DepthConfig, NetworkConfig, NormalFromDepthConfig
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.recipe import PhotosRecipe
from fourm.recipes import load
from fourm.registry import implementation


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "glpn"
    torch.manual_seed(0)
    config = GLPNConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
        mlp_ratios=[1, 1, 1, 1],
    )  # fmt: skip
    GLPNForDepthEstimation(config).save_pretrained(folder)
    GLPNImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


class Sizes(Network):
    """A network that notes which photographs it sees together."""

    def __init__(self, config: NetworkConfig, device: str) -> None:
        super().__init__(config, device)
        self.seen: list[list[str]] = []

    def answer(self, photos: list[Photo], inputs: Inputs) -> list[bytes]:
        self.seen.append([photo.key for photo in photos])
        return [f"{photo.key} {tuple(pixels.shape)}".encode() for photo, pixels in zip(photos, inputs["pixels"])]


@pytest.fixture
def bars() -> Iterator[None]:
    """The library as it is at first, before and after a test."""
    transformers.utils.logging.enable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.mark.usefixtures("bars")
def test_loading_weights_is_silent_and_downloads_show_their_progress(
    weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Depth(DepthConfig(weights=weights), "cpu")
    assert capfd.readouterr().err == ""
    assert not huggingface_hub.utils.are_progress_bars_disabled()


@pytest.mark.usefixtures("bars")
def test_downloads_without_progress_stay_so(weights: Path) -> None:
    huggingface_hub.utils.disable_progress_bars()
    Depth(DepthConfig(weights=weights), "cpu")
    assert huggingface_hub.utils.are_progress_bars_disabled()


def test_only_photographs_of_one_size_are_computed_together_and_answers_keep_their_order(photos: list[Photo]) -> None:
    network = Sizes(DepthConfig(), "cpu")

    found = network.label(photos)

    assert network.seen == [["a", "c"], ["b"], ["d"]]
    assert found == [b"a (3, 48, 64)", b"b (3, 64, 48)", b"c (3, 48, 64)", b"d (3, 20, 100)"]


def test_no_more_photographs_are_computed_together_than_the_config_says(photos: list[Photo]) -> None:
    network = Sizes(DepthConfig(batch_size=1), "cpu")

    network.label(photos)

    assert network.seen == [["a"], ["c"], ["b"], ["d"]]


def test_bfloat16_is_a_matter_of_the_config(weights: Path, photos: list[Photo]) -> None:
    seen = {}
    for precision in ("fp32", "bf16"):
        labeler = Depth(DepthConfig(weights=weights, scale="metric", precision=precision), "cpu")
        part = labeler.model.head
        part.register_forward_hook(lambda module, given, made, name=precision: seen.update({name: made.dtype}))
        labeler.label(photos[:1])

    assert seen == {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_random_weights_are_the_same_everywhere(weights: Path, photos: list[Photo]) -> None:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(Depth(DepthConfig(weights=weights, pretrained=False, scale="metric"), "cpu").label(photos[:3]))

    assert made[0] == made[1]


def test_weights_that_cannot_be_had_are_named_with_what_to_do(offline: None) -> None:
    config = DepthConfig(name="depth-anything/nothing-of-this-name")

    with pytest.raises(
        CheckpointError,
        match="depth network 'depth-anything/nothing-of-this-name': its weights cannot be loaded: .*"
        "or set `weights` of this label to a local folder with the model, as `save_pretrained` writes it",
    ):
        Depth(config, "cpu")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="`weights` of the depth network .* is .*nowhere', which does not exist"):
        Depth(DepthConfig(weights=tmp_path / "nowhere"), "cpu")


def test_pickled_weights_are_not_read(weights: Path) -> None:
    torch.save(load_file(weights / "model.safetensors"), weights / "pytorch_model.bin")
    (weights / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="model.safetensors"):
        Depth(DepthConfig(weights=weights), "cpu")


def test_weights_that_are_not_complete_are_an_error(weights: Path) -> None:
    state = load_file(weights / "model.safetensors")
    lost = next(name for name in state if name.startswith("head."))
    save_file(
        {name: value for name, value in state.items() if name != lost}, weights / "model.safetensors", {"format": "pt"}
    )

    with pytest.raises(CheckpointError, match=f"lack 1 weights, or have them in other shapes, for instance {lost}"):
        Depth(DepthConfig(weights=weights), "cpu")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(MissingExtraError, match="the depth network needs the package 'transformers'"):
        Depth(DepthConfig(), "cpu")


def test_a_photograph_that_cannot_be_labelled_is_rejected_alone(
    weights: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, height in (("a", 48), ("flat", 20), ("z", 48)):  # this network sees multiples of 32 pixels
        Image.fromarray(rng.integers(0, 256, (height, 64, 3), np.uint8)).save(folder / f"{name}.png")
    labels = {
        "depth": DepthConfig(weights=weights, scale="metric", value_range=(0.25, 12)),
        "normal": NormalFromDepthConfig(),
    }
    out = tmp_path / "out"

    rejected = prepare_photos(
        PhotosRecipe(str(folder), out, labels=labels, device="cpu", seed=None), workers=1, progress=False
    )

    assert [(entry.file, entry.by) for entry in rejected] == [("flat.png", "depth")]
    for source in ("rgb", "depth", "normal"):
        assert load_index(shard_path(out, source, 0)).keys == ["a", "z"]
    facts = json.loads((out / "depth" / "source.json").read_text())
    assert facts["modality"]["value_range"] == [0.25, 12.0]
    assert facts["labeler"]["name"] == labels["depth"].name
    assert "weights" not in facts["labeler"]


def test_how_a_network_computes_does_not_tell_its_labels_from_others(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (64, 48), (90, 60, 200)).save(folder / "a.png")
    for precision, batch_size in (("fp32", 8), ("bf16", 2)):
        label = DepthConfig(weights=weights, precision=precision, batch_size=batch_size)
        recipe = PhotosRecipe(str(folder), tmp_path / "out", labels={"depth": label}, device="cpu")
        assert prepare_photos(recipe, workers=1, progress=False) == []


@pytest.mark.parametrize(
    "kind", ["depth", "normal", "normal_from_depth", "semseg", "det", "torchvision_det", "caption"]
)
def test_labelers_are_found_by_their_kind(kind: str) -> None:
    config = LABELER_KINDS.resolve(kind)()

    assert config.modality("mine").source == "mine"
    assert callable(implementation(config.target).label)
    assert config.network == (kind != "normal_from_depth")


def test_the_shipped_recipe_makes_what_4m_7_is_trained_on() -> None:
    recipe = load("4m7", PhotosRecipe, ["input=in", "output=out"], folder="prepare")
    modalities = recipe.modalities()

    for source, name in {
        "depth": "depth@224", "normal": "normal@224", "semseg": "semseg_coco@224", "det": "det", "caption": "caption"
    }.items():  # fmt: skip
        assert modalities[source] == replace(MODALITIES[name], name=source, source=source)
    assert recipe.order().index("normal") > recipe.order().index("depth")
