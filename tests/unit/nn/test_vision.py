"""Towers and poolers: what they make of an image, what they cannot, and the sizes of the published ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fourm.config import build
from fourm.errors import CheckpointError, ConfigError
from fourm.nn.init import adopt_weights, initialise
from fourm.nn.poolers import AveragePooler, Features, LinearPooler, MlpPooler, Resampler, ShufflePooler, side_by_side
from fourm.nn.towers import ImageFacts, TimmTower
from fourm.nn.vision import VisionEncoder
from fourm.nn.vision_configs import (
    AveragePoolerConfig,
    LinearPoolerConfig,
    MlpPoolerConfig,
    ResamplerConfig,
    ShufflePoolerConfig,
    TimmTowerConfig,
    VisionConfig,
)

IMAGE = ImageFacts("image", 32, 32, 3, "none")
TINY = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
ARCHITECTURES = [
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "eva_giant_patch14_clip_224",
    "eva02_enormous_patch14_clip_224",
    "eva02_base_patch14_224",
    "aimv2_large_patch14_224",
]


def tower(name: str = ARCHITECTURES[0], **keys: Any) -> TimmTowerConfig:
    return TimmTowerConfig(name, options=TINY, **keys)


def encoder(config: TimmTowerConfig, pooler: Any = None, *, num_tokens: int = 4, dim: int = 32) -> VisionEncoder:
    made = VisionEncoder(IMAGE, num_tokens, dim, VisionConfig(config, pooler or AveragePoolerConfig()))
    initialise(made, 0)
    return made.eval()


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_of_timm_comes_back_from_the_meta_device_with_its_weights_alone(name: str) -> None:
    made = encoder(tower(name))
    with torch.device("meta"):
        again = VisionEncoder(IMAGE, 4, 32, made_config(name))

    adopt_weights(again, made.state_dict())

    assert made(images()).shape == (2, 4, 32)
    assert torch.equal(again.eval()(images()), made(images()))


def test_a_frozen_tower_answers_in_training_as_it_always_does() -> None:
    made = encoder(TimmTowerConfig(ARCHITECTURES[0], options={**TINY, "pos_drop_rate": 0.5}))
    expected = made(images())
    made.train()
    assert not torch.equal(made(images()), expected)
    made.tower.requires_grad_(False)
    assert torch.equal(made.train()(images()), expected)


def made_config(name: str) -> VisionConfig:
    return VisionConfig(tower(name), AveragePoolerConfig())


@pytest.mark.parametrize("name", [ARCHITECTURES[0], ARCHITECTURES[2]])
def test_initial_weights_follow_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = encoder(tower(name)).state_dict()
    torch.manual_seed(2)
    second = encoder(tower(name)).state_dict()
    third = VisionEncoder(IMAGE, 4, 32, made_config(name))
    initialise(third, 1)

    assert all(torch.equal(first[key], second[key]) for key in first)
    for key in ("tower.model.cls_token", "tower.model.pos_embed", "tower.model.patch_embed.proj.weight"):
        assert first[key].std() > 0
        assert not torch.equal(first[key], third.state_dict()[key])


def test_no_image_gives_no_vectors_but_a_zero_gradient_of_every_weight() -> None:
    made = encoder(tower(), ResamplerConfig(16, 1, 2), num_tokens=3, dim=8)

    out = made(images(0))
    out.sum().backward()

    assert out.shape == (0, 3, 8)
    assert all(p.grad is not None and not p.grad.any() for p in made.parameters())


@torch.no_grad()
def test_the_layer_that_is_read_is_the_hidden_state_of_the_whole_network() -> None:
    whole = encoder(tower(layer=-1))
    earlier = encoder(tower(layer=-2))
    earlier.load_state_dict({k: v for k, v in whole.state_dict().items() if k in earlier.state_dict()})
    model = whole.tower.model
    model.blocks = model.blocks[:-1]
    whole.tower.index -= 1

    assert len(earlier.tower.model.blocks) == 2
    assert torch.equal(earlier(images()), whole(images()))


@torch.no_grad()
def test_the_class_token_comes_first_where_it_is_read() -> None:
    with_class = TimmTower(IMAGE, tower(class_token=True)).eval()
    without = TimmTower(IMAGE, tower()).eval()
    without.load_state_dict(with_class.state_dict())

    assert (with_class.num_tokens, without.num_tokens) == (17, 16)
    assert torch.equal(with_class(images())[:, 1:], without(images()))


@pytest.mark.parametrize(("num_tokens", "side"), [(16, 1), (4, 2), (1, 4)])
def test_averages_are_means_over_squares(num_tokens: int, side: int) -> None:
    x = torch.randn(2, 16, 5)

    found = AveragePooler(Features(5, (4, 4)), num_tokens, 5, AveragePoolerConfig())(x)

    maps = x.view(2, 4, 4, 5)
    expected = [maps[:, r : r + side, c : c + side].mean((1, 2)) for r in range(0, 4, side) for c in range(0, 4, side)]
    assert torch.allclose(found, torch.stack(expected, 1), atol=1e-6)


@pytest.mark.parametrize("num_tokens", [64, 256])
def test_emu2_pools_1024_patches_to_8_x_8_or_16_x_16(num_tokens: int) -> None:
    pooler = AveragePooler(Features(3, (32, 32)), num_tokens, 3, AveragePoolerConfig())

    assert pooler(torch.zeros(1, 1024, 3)).shape == (1, num_tokens, 3)
    assert not list(pooler.parameters())


@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize(("rows", "columns", "factor"), [(4, 4, 2), (3, 5, 2), (7, 7, 3)])
def test_squares_side_by_side_are_those_of_a_loop_over_places(rows: int, columns: int, factor: int, order: str) -> None:
    maps = torch.randn(2, rows, columns, 3)

    found = side_by_side(maps, factor, order)

    places = [(r, c) for r in range(0, rows, factor) for c in range(0, columns, factor)]
    if order == "columns":
        places.sort(key=lambda place: (place[1], place[0]))
    for number, (r, c) in enumerate(places):
        for part, (i, j) in enumerate((i, j) for i in range(factor) for j in range(factor)):
            inside = r + i < rows and c + j < columns
            expected = maps[:, r + i, c + j] if inside else torch.zeros(2, 3)
            assert torch.equal(found[:, number, 3 * part : 3 * part + 3], expected)
    assert found.shape == (2, len(places), 3 * factor**2)


@pytest.mark.parametrize(("side", "factor", "num_tokens"), [(27, 2, 196), (32, 3, 121)])
def test_vila_makes_so_many_tokens_of_siglip(side: int, factor: int, num_tokens: int) -> None:
    pooler = ShufflePooler(Features(4, (side, side)), num_tokens, 6, ShufflePoolerConfig(factor, squeeze=factor == 3))

    assert pooler(torch.zeros(1, side * side, 4)).shape == (1, num_tokens, 6)


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 3, 7])
def test_a_vector_of_the_resampler_depends_on_its_query_and_earlier_ones_alone(changed: int) -> None:
    pooler = Resampler(Features(12, (3, 3)), 8, 6, ResamplerConfig(16, 2, 2))
    initialise(pooler, 0)
    x = torch.randn(1, 9, 12)
    before = pooler(x)
    pooler.queries[changed] += 1

    moved = (pooler(x) - before).abs().amax((0, 2))

    assert (moved[:changed] == 0).all()
    assert (moved[changed:] > 0).all()


@torch.no_grad()
def test_every_vector_of_the_resampler_depends_on_every_patch() -> None:
    pooler = Resampler(Features(12, (3, 3)), 4, 6, ResamplerConfig(16, 2, 2))
    initialise(pooler, 0)
    x = torch.randn(1, 9, 12, requires_grad=True)

    with torch.enable_grad():
        grads = [torch.autograd.grad(pooler(x)[0, i].sum(), x)[0].abs().sum(-1) for i in range(4)]

    assert all((grad > 0).all() for grad in grads)


def meta(name: str, size: int, pooler: Any, num_tokens: int, dim: int, **keys: Any) -> VisionEncoder:
    with torch.device("meta"):
        config = VisionConfig(TimmTowerConfig(name, **keys), pooler)
        return VisionEncoder(ImageFacts("image", size, size, 3, "clip"), num_tokens, dim, config)


def eva(dim: int, hidden: int, depth: int, patches: int) -> int:
    """Parameters of EVA: q and v have biases, keys have none."""
    attention = 4 * dim**2 + 3 * dim
    mlp = 2 * dim * hidden + hidden + dim
    return depth * (attention + mlp + 4 * dim) + 3 * 14**2 * dim + dim + dim + (patches + 1) * dim


def test_emu_s_vision_side_has_the_published_sizes() -> None:
    pooler = build(ResamplerConfig, {"preset": "c_former"})
    made = meta("eva_giant_patch14_clip_224", 224, pooler, 32, 5120, class_token=True)

    own, cross = 4 * 768**2, 2 * 768**2 + 2 * 768 * 1408
    blocks = 12 * (own + cross + 2 * 768 * 3072 + 3 * 768)
    assert count(made.tower) == eva(1408, 6144, 40, 256)
    assert count(made.pooler) == blocks + 768 + 32 * 12 + 32 * 768 + 2 * 1408 + 768 * 5120 + 5120
    assert made.tower.num_tokens == 257
    llama_13b = 13_015_864_320 + 2 * 4 * 5120
    assert (count(made) + llama_13b + 5120**2) / 1e9 == pytest.approx(14, abs=0.3)


def test_emu2_s_vision_side_has_the_published_sizes() -> None:
    made = meta("eva02_enormous_patch14_clip_224", 448, AveragePoolerConfig(), 64, 1792)

    assert count(made) == eva(1792, 15360, 64, 1024)
    assert made.tower.grid == (32, 32)
    llama_33b = 32_528_943_616
    assert (count(made) + llama_33b + 2 * 1792 * 6656) / 1e9 == pytest.approx(37, abs=0.2)


def test_vila_s_towers_make_the_published_numbers_of_tokens() -> None:
    clip = meta("vit_large_patch14_clip_quickgelu_336", 336, LinearPoolerConfig(), 576, 4096, layer=-2)
    siglip = meta("vit_so400m_patch14_siglip_384", 384, ShufflePoolerConfig(), 196, 4096, layer=-2, cut=True)

    assert len(clip.tower.model.blocks) == 23
    assert count(clip.pooler) == 1024 * 4096 + 4096
    assert siglip.tower.grid == (27, 27)
    assert count(siglip.pooler) == 2 * 4608 + 4608 * 4096 + 4096 + 4096**2 + 4096


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: encoder(TimmTowerConfig("vit_huge_clipp")), ["timm does not have", "vit_huge"]),
        (lambda: encoder(TimmTowerConfig("resnet18")), ["resnet18", "cannot be used here"]),
        (
            lambda: encoder(
                TimmTowerConfig("vit_base_patch14_dinov2", options={"embed_dim": 32, "depth": 1, "num_heads": 2})
            ),
            ["32 x 32 pixels", "14 x 14", "28 and 28", "cut"],
        ),
        (lambda: encoder(tower(layer=-4)), ["layer is -4", "3 blocks"]),
        (lambda: encoder(tower(class_token=True)), ["average", "class_token to false"]),
        (lambda: encoder(tower(), num_tokens=5), ["average", "16, 4, 1", "not 5"]),
        (lambda: encoder(tower(), dim=8), ["32 numbers", "content.dim is 8", "projection"]),
        (lambda: encoder(tower(), LinearPoolerConfig()), ["linear makes 16 tokens", "not 4", "resampler"]),
        (lambda: encoder(tower(), ShufflePoolerConfig(3), num_tokens=5), ["shuffle of factor 3 makes 4", "not 5"]),
        (lambda: TimmTowerConfig("x", layer=1), ["layer is 1", "-1"]),
        (lambda: TimmTowerConfig("x", layer=-2, norm=True), ["norm to false"]),
        (lambda: ResamplerConfig(16, 1, 2, cross_attention=False), ["cross_attention"]),
        (lambda: build(ResamplerConfig, {"preset": "c_formr"}), ["c_formr", "c_former"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(make: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make()

    assert all(word in str(error.value) for word in words), error.value


def test_weights_that_cannot_be_had_are_named_with_licence_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    missing = TimmTowerConfig(
        "vit_base_patch16_clip_224.openai", pretrained=True, options={"depth": 1, "embed_dim": 64}
    )
    with pytest.raises(CheckpointError, match=r"tower 'vit_base.*tower.weights to a file.*Licence of these weights"):
        VisionEncoder(ImageFacts("image", 224, 224, 3, "clip"), 49, 768, VisionConfig(missing, AveragePoolerConfig()))


def test_a_file_of_weights_is_read_and_initialising_leaves_it(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    whole = encoder(tower(layer=-1, norm=True))
    import timm

    network = timm.create_model(ARCHITECTURES[0], img_size=32, **TINY)
    network.load_state_dict(whole.tower.model.state_dict(), strict=False)
    save_file(network.state_dict(), tmp_path / "tower.safetensors")

    made = encoder(tower(layer=-1, norm=True, weights=tmp_path / "tower.safetensors"))

    assert torch.equal(made(images()), whole(images()))


def test_an_mlp_of_depth_one_is_the_linear_pooler() -> None:
    features, x = Features(6, (2, 2)), torch.randn(1, 4, 6)
    linear, mlp = (
        LinearPooler(features, 4, 5, LinearPoolerConfig()),
        MlpPooler(features, 4, 5, MlpPoolerConfig(depth=1)),
    )
    mlp.layers[0].load_state_dict(linear.linear.state_dict())

    assert torch.equal(linear(x), mlp(x))
    assert count(MlpPooler(features, 4, 5, MlpPoolerConfig())) == 6 * 5 + 5 + 5 * 5 + 5
