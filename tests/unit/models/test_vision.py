"""The feeder of whole images, and towers that are models of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm import config as configs
from fourm.catalog import get
from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots
from fourm.modality import Modality, ModalitySet, to_dict
from fourm.models.ask import patchify
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.folder import load_model, save_model
from fourm.models.multimodal import Multimodal
from fourm.models.transplant import copy_weights
from fourm.models.vision import VisionFeeder
from fourm.models.vision_configs import ModelTowerConfig, VisionFeederConfig
from fourm.nn.init import adopt_weights, initialise
from fourm.nn.vision_configs import AveragePoolerConfig, LinearPoolerConfig
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.patterns import AttentionPattern
from fourm.recipe.cost import forward_flops
from fourm.rng import generator
from fourm.tokens import Segment, TokenBatch

RGB = Modality("rgb@16", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, normalization="half")
LABELS = Modality("tok", Grid(2, 2), Discrete(5), "tok", "tokens", tokenizer="rgb@16")


def slots(dim: int = 24, num_tokens: int = 4, normalization: Any = "half", size: int = 16) -> Modality:
    return Modality(
        "image", Slots(num_tokens, size, size), Continuous(dim), "rgb", "image", channels=3, normalization=normalization
    )


def images(count: int = 2, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def model_config(**keys: Any) -> MultimodalConfig:
    values = {"dim": 24, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2, "num_register_tokens": 2, **keys}
    return MultimodalConfig(**values)


def tower(model: MultimodalConfig | None = None, **keys: Any) -> ModelTowerConfig:
    return ModelTowerConfig(model=model or model_config(), image=to_dict(RGB), **keys)


def feeder(config: VisionFeederConfig, image: Any = None, dim: int = 24) -> VisionFeeder:
    made = VisionFeeder(image or slots(), config, dim)
    initialise(made, 0)
    return made.eval()


@pytest.mark.parametrize(("projection", "dim"), [(False, 24), (True, 10)])
def test_vectors_are_those_of_content_and_the_model_reads_their_projection(projection: bool, dim: int) -> None:
    made = feeder(VisionFeederConfig(tower(), AveragePoolerConfig(), projection), dim=dim)

    vectors = made(images())

    assert vectors.shape == (2, 4, 24)
    assert made.project(vectors).shape == (2, 4, dim)
    if projection:
        assert torch.equal(made.project(vectors), vectors @ made.projection.weight.T)
    else:
        assert made.project(vectors) is vectors


@pytest.mark.parametrize("layer", [None, -1, -2])
def test_a_feeder_comes_back_from_its_config_and_weights_alone(layer: int | None) -> None:
    config = VisionFeederConfig(tower(layer=layer), AveragePoolerConfig())
    made = feeder(config)
    again = configs.build(VisionFeederConfig, configs.to_dict(config))
    with torch.device("meta"):
        empty = VisionFeeder(slots(24), again, 24)

    adopt_weights(empty, made.state_dict())

    assert again == config
    assert torch.equal(empty.eval()(images()), made(images()))


@torch.no_grad()
@pytest.mark.parametrize("alone", [False, True])
def test_a_trained_model_as_tower_gives_its_own_hidden_states(tmp_path: Path, alone: bool) -> None:
    config = model_config(encoder_depth=0, decoder_depth=2, num_register_tokens=0) if alone else model_config()
    if alone:
        config.vector_head, config.tie_heads = LinearHeadConfig(), False
    trained = Multimodal(ModalitySet([LABELS, RGB]), config, seed=3).eval()
    save_model(trained, tmp_path / "model")

    made = feeder(
        configs.build(
            VisionFeederConfig,
            {"tower": {"kind": "model", "path": str(tmp_path / "model")}, "pooler": {"kind": "average"}},
        ),
        slots(24, num_tokens=16),
    )

    table = TokenBatch(
        torch.ones(2, 16, dtype=torch.int64),
        torch.arange(16).expand(2, 16),
        torch.full((2, 16), -1),
        torch.full((2, 16), -1),
        AttentionPattern.full(torch.ones(2, 16, dtype=torch.bool)),
        values={"rgb@16": patchify(images(), 4).flatten(0, 1)},
        value_rows={"rgb@16": torch.arange(32)},
    )
    content, place, _ = trained.input_embedder(table)
    if alone:
        expected = trained.decoder(content + place, attention=table.attention)
    else:
        x = torch.cat([trained.registers.expand(2, -1, -1), content + place], 1)
        expected = trained.encoder(x, attention=None)[:, 2:]
    assert torch.allclose(made(images()), expected, atol=1e-5)


def test_a_model_reads_larger_images_at_the_places_it_knows() -> None:
    made = feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), slots(24, num_tokens=16, size=32))

    assert made.tower.grid == (8, 8)
    assert made(images(size=32)).shape == (2, 16, 24)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), dim=32),
            ["content.dim 24", "reads 32", "model.feeders.image.projection to true", "content.dim to 32"],
        ),
        (
            lambda: feeder(VisionFeederConfig(tower(), LinearPoolerConfig())),
            ["model.feeders.image: pooler linear makes 16 tokens", "not 4"],
        ),
        (
            lambda: feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), slots(24, normalization="clip")),
            ["normalization clip", "trained on 'image' with half", "modalities.image.normalization to half"],
        ),
        (
            lambda: feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), slots(24, size=18)),
            ["18 x 18", "patches of 4 x 4"],
        ),
        (
            lambda: feeder(VisionFeederConfig(tower(layer=-3), AveragePoolerConfig())),
            ["layer is -3", "2 blocks"],
        ),
        (
            lambda: feeder(VisionFeederConfig(ModelTowerConfig(path=Path("nowhere")), AveragePoolerConfig())),
            ["no model is at nowhere", "inside the output of a training"],
        ),
        (
            lambda: feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), slots(48), dim=48),
            ["pooler average keeps the 24 numbers", "content.dim is 48"],
        ),
        (lambda: feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), RGB), ["'rgb@16' is no image", "slots"]),
        (lambda: feeder(VisionFeederConfig(tower(), AveragePoolerConfig()), LABELS), ["'tok' is no image", "slots"]),
    ],
)
def test_parts_that_do_not_go_together_are_refused_with_the_remedy(make: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make()

    assert all(word in str(error.value) for word in words), error.value


def test_a_model_with_several_images_needs_the_name_of_one(tmp_path: Path) -> None:
    second = Modality("depth@16", Grid(4, 4, 4), Continuous(16), "depth", "depth16", channels=1)
    save_model(Multimodal(ModalitySet([LABELS, RGB, second]), model_config()), tmp_path)
    values = {"path": str(tmp_path)}

    with pytest.raises(ConfigError, match="rgb@16, depth@16: name one"):
        configs.build(ModelTowerConfig, values)

    assert configs.build(ModelTowerConfig, {**values, "modality": "depth@16"}).image["channels"] == 1
    with pytest.raises(ConfigError, match="modality is 'rgb'; the model in .* has tok, rgb@16, depth@16"):
        configs.build(ModelTowerConfig, {**values, "modality": "rgb"})


TEXT = Modality("text", Sequence(32, 32), Discrete(20), "text", "tokens")


def interleaved(size: int = 16, **keys: Any) -> Multimodal:
    """A language model of width 16 that reads and predicts vectors of 24 numbers of a frozen-able tower."""
    config = configs.build(
        MultimodalConfig,
        {
            "dim": 16, "encoder_depth": 0, "decoder_depth": 1, "num_heads": 2, "rope_theta": 1e4, "tie_heads": False,
            "position_tables": False, "modality_embeddings": False, "vector_head": {"kind": "linear", "bias": False},
            "feeders": {
                "image": {
                    "kind": "vision",
                    "tower": {"kind": "timm", "name": "vit_base_patch16_clip_224", "options": TINY_VIT},
                    "pooler": {"kind": "resampler", "dim": 16, "depth": 1, "num_heads": 2, "relative_buckets": 4},
                    "projection": True,
                }
            },
            **keys,
        },
    )  # fmt: skip
    return Multimodal(ModalitySet([TEXT, slots(size=size)]), config)


TINY_VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def test_a_later_stage_reads_larger_images_by_a_resized_table_of_positions() -> None:
    small, large = interleaved(), interleaved(size=32)

    copy_weights(small, large)

    name = "input_embedder.feeders.image.tower.model.pos_embed"
    old, new = (model.get_parameter(name) for model in (small, large))
    assert (old.shape, new.shape) == ((1, 5, 24), (1, 17, 24))
    torch.testing.assert_close(new[:, 0], old[:, 0])
    torch.testing.assert_close(new[:, 1:].mean(1), old[:, 1:].mean(1), atol=1e-2, rtol=0.1)
    own, read = large.state_dict(), small.state_dict()
    assert all(torch.equal(own[key], read[key]) for key in read if key != name)


def step(own: Multimodal, documents: list[Any]) -> dict[str, Tensor]:
    task = Autoregressive(AutoregressiveConfig(), own.modalities)
    example = task.collate([task.prepare([one], generator(0, "row", n)) for n, one in enumerate(documents)])
    return own(example)


def test_every_weight_has_a_gradient_with_images_and_with_text_alone() -> None:
    own, text = interleaved(), Segment("text", np.array([1, 2, 3]))
    picture = Segment("image", images(1)[0].numpy())

    for documents, moved in (([[text, picture, text], [text]], True), ([[text], [text]], False)):
        own.zero_grad()
        answers = step(own, documents)
        sum(value.square().sum() for value in answers.values()).backward()
        grads = {name: p.grad for name, p in own.named_parameters()}
        assert all(grad is not None for grad in grads.values())
        vision = [grad for name, grad in grads.items() if ".feeders." in name]
        assert all(bool(grad.any()) == moved for grad in vision)


def test_a_model_with_a_feeder_is_saved_and_loaded_without_its_tower_s_source(tmp_path: Path) -> None:
    own = interleaved().eval()
    save_model(own, tmp_path)
    text, picture = Segment("text", np.array([1, 2, 3])), Segment("image", images(1)[0].numpy())

    again = load_model(tmp_path)

    expected, found = step(own, [[text, picture, text]]), step(again, [[text, picture, text]])
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_operations_of_an_image_are_counted_also_in_fused_attention() -> None:
    with torch.device("meta"):
        own = interleaved()
    task, text = Autoregressive(AutoregressiveConfig(), own.modalities), Segment("text", np.array([1, 2, 3]))
    picture = Segment("image", images(1)[0].numpy())

    def counted(pictures: int) -> int:
        row = [text, *[picture, text] * pictures]
        batch = task.collate([task.prepare([row], generator(0, "row"))])
        return forward_flops(own, task, batch.to("meta"))["input_embedder"]

    tower = 4 * 192 * 24 + 2 * (5 * 24 * 72 + 2 * 5 * 5 * 24 + 5 * 24 * 24 + 2 * 5 * 24 * 96)
    itself, across = 4 * 16 * 48 + 2 * 4 * 4 * 16 + 4 * 16 * 16, 2 * 4 * 16 * 16 + 4 * 24 * 32 + 2 * 4 * 4 * 16
    pooler = itself + across + 2 * 4 * 16 * 64 + 4 * 16 * 24
    projection = 4 * 24 * 16
    assert counted(2) - counted(1) == 2 * (tower + pooler + projection)
    assert counted(0) == 2 * (tower + pooler)  # of a blank image


def test_a_recipe_can_name_the_sizes_of_a_model_that_is_not_there_yet(tmp_path: Path) -> None:
    values = {"path": str(tmp_path / "model"), "modality": "rgb@64", "model": {"kind": "multimodal", **SIZES}}
    wanted = slots(num_tokens=64, size=64)
    with torch.device("meta"):
        before = VisionFeeder(wanted, feeder_config(values), 24)
    trained = Multimodal(ModalitySet([LABELS, get("rgb@64")]), MultimodalConfig(**SIZES))
    save_model(trained, tmp_path / "model")

    after = feeder(feeder_config(values), wanted)

    assert {name: p.shape for name, p in before.state_dict().items()} == {
        name: p.shape for name, p in after.state_dict().items()
    }
    assert torch.equal(after.tower.encoder.norm.weight, trained.encoder.norm.weight)
    assert torch.equal(after.tower.stem.projection.weight, trained.input_embedder.projections["rgb@64"].weight)
    wrong = {**values, "model": {"kind": "multimodal", **SIZES, "dim": 32}}
    with pytest.raises(CheckpointError, match="tower.model and image are not those of the model in"):
        feeder(feeder_config(wrong), slots(32, num_tokens=64, size=64), dim=32)


SIZES = {"dim": 24, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}


def feeder_config(tower: dict[str, Any]) -> VisionFeederConfig:
    return configs.build(VisionFeederConfig, {"tower": {"kind": "model", **tower}, "pooler": {"kind": "average"}})
