"""Frozen networks that make feature maps of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.tokenizers.imagebind import tower_state
from fourm.tokenizers.teacher_configs import (
    TEACHERS,
    ImageBindConfig,
    TimmTeacherConfig,
    TransformersTeacherConfig,
    teacher_of,
)
from fourm.tokenizers.teachers import VisionTransformerTeacher, build_teacher

TINY = TimmTeacherConfig(name="test_vit", pretrained=False)  # 64 numbers, patches of 16 pixels
SMALL_IMAGEBIND = ImageBindConfig(dim=32, depth=2, num_heads=2, projection_dim=8, image_size=28)


def features(dim: int = 64, places: int = 2, patch: int = 16, **facts: Any) -> Modality:
    return Modality(
        "map", Grid(places, places, patch), Continuous(dim), "rgb", "image",
        teacher="mine", channels=3, value_range=(0.0, 1.0), normalization="imagenet", **facts,
    )  # fmt: skip


def images(size: int = 32, num: int = 2) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(3))


def test_a_map_holds_the_normed_vectors_of_the_patches_row_by_row() -> None:
    teacher = build_teacher(features(), TINY)

    expected = teacher.model.forward_features(images())[:, 1:]
    found = teacher(images())

    assert found.shape == (2, 64, 2, 2)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)


def test_the_class_token_is_the_one_vector_of_an_image() -> None:
    teacher = build_teacher(features(places=1, patch=32), replace(TINY, tokens="class"))

    torch.testing.assert_close(teacher(images())[:, :, 0, 0], teacher.model.forward_features(images())[:, 0])


def test_a_network_without_class_token_pools_its_own_vector() -> None:
    torch.manual_seed(4)
    siglip = timm.create_model(
        "vit_base_patch16_siglip_224", num_classes=0, depth=1, embed_dim=24, num_heads=3, img_size=32
    ).eval()
    config = replace(TINY, tokens="pooled")

    found = VisionTransformerTeacher(config, siglip, "siglip")(images())

    assert found.shape == (2, 24, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(found[:, :, 0, 0], siglip(images()))
    with pytest.raises(ConfigError, match="tokens is class, but 'siglip' has no class token"):
        VisionTransformerTeacher(replace(TINY, tokens="class"), siglip, "siglip")
    with pytest.raises(ConfigError, match="tokens is pooled, which is done behind the norm"):
        replace(config, output="blocks")


def test_what_is_read_may_lie_before_the_norm_or_behind_the_projection() -> None:
    blocks = build_teacher(features(), replace(TINY, output="blocks"))
    projected = build_teacher(features(1000), replace(TINY, output="projection"))

    places_last = blocks(images()).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        blocks.model.norm(places_last), build_teacher(features(), TINY)(images()).permute(0, 2, 3, 1)
    )
    expected = projected.model.head(projected.model.forward_features(images())[:, 1:])
    torch.testing.assert_close(projected(images()).flatten(2).transpose(1, 2), expected)


def test_images_of_another_size_have_a_larger_map() -> None:
    assert build_teacher(features(), TINY)(images(64)).shape == (2, 64, 4, 4)


def test_random_weights_are_the_same_in_every_process() -> None:
    torch.manual_seed(1)
    first = build_teacher(features(), TINY)
    torch.manual_seed(2)

    torch.testing.assert_close(first(images()), build_teacher(features(), TINY)(images()), rtol=0, atol=0)


def test_nothing_is_learned_and_the_precision_is_the_teachers_own() -> None:
    teacher = build_teacher(features(), TINY)
    given = images().requires_grad_()

    with torch.autocast("cpu", torch.bfloat16):
        found = teacher(given)

    assert not found.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    torch.testing.assert_close(found, teacher(images()), rtol=0, atol=0)
    in_bf16 = build_teacher(features(), replace(TINY, bf16=True))(images())
    assert in_bf16.dtype == torch.float32
    assert 0 < (in_bf16 - found).abs().max() < 0.2


def test_it_runs_on_the_meta_device_so_nothing_waits_for_the_device() -> None:
    assert build_teacher(features(), TINY).to("meta")(images().to("meta")).shape == (2, 64, 2, 2)


def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained = timm.create_model("test_vit", num_classes=0).eval()
    save_file(trained.state_dict(), tmp_path / "vit.safetensors")

    config = TimmTeacherConfig(name="test_vit", weights=tmp_path / "vit.safetensors")

    with torch.no_grad():
        expected = trained.forward_features(images())[:, 1:]
    torch.testing.assert_close(build_teacher(features(), config)(images()).flatten(2).transpose(1, 2), expected)
    torch.testing.assert_close(
        build_teacher(features(), replace(config, weights=None, pretrained=False), tmp_path / "vit.safetensors")(
            images()
        ),
        build_teacher(features(), config)(images()),
    )


def test_weights_that_cannot_be_had_are_an_error_that_names_the_way_out(tmp_path, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer.teacher.weights is '.*gone.pth', which does not exist"):
        build_teacher(features(), TimmTeacherConfig(name="test_vit", weights=tmp_path / "gone.pth"))
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="'test_vit': its weights cannot be loaded: .*tokenizer.teacher.weights"):
        build_teacher(features(), TimmTeacherConfig(name="test_vit", weights=tmp_path / "damaged.safetensors"))

    def no_network(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(
        CheckpointError, match="no route to host. Run once with access to the internet, or set tok.*weights"
    ):
        build_teacher(features(), TimmTeacherConfig(name="test_vit"))


@pytest.mark.parametrize(
    ("config", "modality", "message"),
    [
        (TINY, features(dim=32), r"declares 32 numbers in 2 x 2 places, but its teacher makes 64 numbers in 2 x 2"),
        (TINY, features(places=4, patch=8), r"declares 64 numbers in 4 x 4 places.*makes 64 numbers in 2 x 2"),
        (replace(TINY, tokens="class"), features(), r"makes 64 numbers in 1 x 1 places of images of 32 x 32 pixels"),
        (TINY, features(places=3, patch=8), r"24 x 24 pixels, which do not divide by the 16 pixels"),
        (replace(TINY, name="test_vitt"), features(), r"timm does not have.*Did you mean 'test_vit"),
        (replace(TINY, name="resnet18"), features(), r"'resnet18', which cannot be used here"),
    ],
)
def test_a_teacher_that_does_not_fit_the_modality_is_refused_before_training(config, modality, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build_teacher(modality, config)


def test_resolutions_of_training_divide_by_the_patches() -> None:
    single = features(places=1, patch=32)
    assert build_teacher(single, replace(TINY, tokens="class"), resolutions=[48, 64])(images(48)).shape == (2, 64, 1, 1)
    with pytest.raises(ConfigError, match="images of 40 x 40 pixels, which do not divide by the 16 pixels"):
        build_teacher(single, replace(TINY, tokens="class"), resolutions=[48, 40])


def test_names_of_teachers_are_known_or_explained() -> None:
    assert teacher_of(replace(features(), teacher="clip_b16")) is TEACHERS["clip_b16"]
    assert teacher_of(features(), TINY) is TINY
    with pytest.raises(ConfigError, match=r"teacher is 'clip_b61'.*Did you mean 'clip_b16'"):
        teacher_of(replace(features(), teacher="clip_b61"))
    plain = Modality("rgb", Grid(2, 2, 16), Continuous(768), "rgb", "image", channels=3)
    assert build_teacher(plain) is None
    with pytest.raises(ConfigError, match="the files of modality 'rgb' hold its values"):
        teacher_of(plain, TINY)
    with pytest.raises(ConfigError, match="modality 'rgb' has none"):
        build_teacher(plain, weights=Path("x"))


# ---------------------------------------------------------------- ImageBind


def imagebind_weights(config: ImageBindConfig) -> dict[str, Tensor]:
    """Random weights under the authors' names, with some of another tower."""
    draw = torch.Generator().manual_seed(7)
    dim, places = config.dim, (config.image_size // 14) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "modality_preprocessors.vision.cls_token": (1, 1, dim),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, places + 1, dim),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (dim, 3, 2, 14, 14),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (dim,),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (dim,),
        "modality_heads.vision.0.weight": (dim,),
        "modality_heads.vision.0.bias": (dim,),
        "modality_heads.vision.2.weight": (config.projection_dim, dim),
        "modality_trunks.audio.blocks.0.attn.in_proj_weight": (12, 4),
    }
    for n in range(config.depth):
        block = f"modality_trunks.vision.blocks.{n}."
        for name, rows, columns in (
            ("attn.in_proj_", 3 * dim, dim),
            ("attn.out_proj.", dim, dim),
            ("mlp.fc1.", 4 * dim, dim),
            ("mlp.fc2.", dim, 4 * dim),
        ):
            shapes |= {f"{block}{name}weight": (rows, columns), f"{block}{name}bias": (rows,)}
        for name in ("norm_1.", "norm_2."):
            shapes |= {f"{block}{name}weight": (dim,), f"{block}{name}bias": (dim,)}
    return {name: torch.randn(shape, generator=draw) * 0.2 for name, shape in shapes.items()}


def imagebind_tokens(weights: dict[str, Tensor], config: ImageBindConfig, image: Tensor) -> Tensor:
    """The tower in plain formulas, on a film of two equal frames (Girdhar et al. 2023, app. B)."""

    def w(name: str) -> Tensor:
        return weights[f"modality_{name}"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w(f"{name}weight"), w(f"{name}bias"), 1e-6)

    film = image[:, :, None].repeat(1, 1, 2, 1, 1)
    patches = F.conv3d(film, w("preprocessors.vision.rgbt_stem.proj.1.weight"), stride=(2, 14, 14))
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([w("preprocessors.vision.cls_token").expand(len(tokens), -1, -1), tokens], 1)
    tokens = norm(
        tokens + w("preprocessors.vision.pos_embedding_helper.pos_embed"), "trunks.vision.pre_transformer_layer.0."
    )
    for n in range(config.depth):
        block = f"trunks.vision.blocks.{n}."
        attention = nn.MultiheadAttention(config.dim, config.num_heads, batch_first=True)
        prefix = f"modality_{block}attn."
        attention.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        x = norm(tokens, f"{block}norm_1.")
        tokens = tokens + attention(x, x, x, need_weights=False)[0]
        x = norm(tokens, f"{block}norm_2.")
        x = F.gelu(F.linear(x, w(f"{block}mlp.fc1.weight"), w(f"{block}mlp.fc1.bias")))
        tokens = tokens + F.linear(x, w(f"{block}mlp.fc2.weight"), w(f"{block}mlp.fc2.bias"))
    return tokens


@pytest.fixture
def imagebind(tmp_path: Path) -> tuple[ImageBindConfig, dict[str, Tensor]]:
    weights = imagebind_weights(SMALL_IMAGEBIND)
    torch.save(weights, tmp_path / "imagebind.pth")
    return replace(SMALL_IMAGEBIND, weights=tmp_path / "imagebind.pth"), weights


def test_imagebind_computes_what_its_authors_weights_mean(imagebind) -> None:
    config, weights = imagebind
    with torch.no_grad():
        tokens = imagebind_tokens(weights, config, images(28))
        embedding = (
            F.layer_norm(
                tokens[:, 0],
                (32,),
                weights["modality_heads.vision.0.weight"],
                weights["modality_heads.vision.0.bias"],
                1e-6,
            )
            @ weights["modality_heads.vision.2.weight"].T
        )

    dense = build_teacher(features(32, patch=14), config)(images(28))
    alone = features(32, places=1, patch=28)
    single = build_teacher(alone, replace(config, tokens="class"))(images(28))
    projected = build_teacher(
        replace(alone, content=Continuous(8)), replace(config, tokens="class", output="projection")
    )

    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single[:, :, 0, 0], tokens[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projected(images(28))[:, :, 0, 0], embedding, rtol=1e-4, atol=1e-4)


def test_imagebind_names_its_licence_where_weights_are_missing() -> None:
    with pytest.raises(CheckpointError, match=r"not fetched: get imagebind_huge.pth.*CC-BY-NC-SA 4.0.*teacher.weights"):
        build_teacher(features(32, patch=14), SMALL_IMAGEBIND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("modality_heads.vision.0.bias"), r"1 weights are missing, for instance norm.bias"),
        (
            lambda w: w.update({"modality_trunks.vision.blocks.7.norm_1.bias": torch.ones(32)}),
            "1 weights are not known",
        ),
        (lambda w: w.update({"modality_trunks.vision.new": torch.ones(1)}), "not known, for instance modality_trunks"),
        (lambda w: w.update({"modality_heads.vision.0.bias": torch.ones(3)}), r"norm.bias has shape \(3,\)"),
        (lambda w: w.clear(), r"weights are missing"),
    ],
)
def test_every_weight_of_the_tower_is_there_and_has_a_place(imagebind, change, message) -> None:
    config, weights = imagebind
    model = build_teacher(features(32, patch=14), config).model
    change(weights)

    with pytest.raises(CheckpointError, match=message):
        tower_state(weights, model)


def test_the_shipped_sizes_are_those_of_the_published_tower() -> None:
    from fourm.tokenizers.imagebind import _tower

    with torch.device("meta"):
        model = _tower(ImageBindConfig())
    assert model.pos_embed.shape == (1, 257, 1280)
    assert sum(parameter.numel() for parameter in model.parameters()) == 632_076_800


# ---------------------------------------------------------------- transformers


@pytest.mark.slow
def test_networks_of_transformers_give_the_same_outputs_by_the_same_names(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    dino = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config={**sizes, "projection_dim": 16},
            text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9},
            projection_dim=16,
        )
    ).eval()
    siglip = transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config={**sizes, "intermediate_size": 32},
            text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9},
        )
    ).eval()
    for name, model in (("dino", dino), ("clip", clip), ("siglip", siglip)):
        model.save_pretrained(tmp_path / name)

    norm = TransformersTeacherConfig(name=str(tmp_path / "dino"))
    projection = TransformersTeacherConfig(name="clip", weights=tmp_path / "clip", output="projection", tokens="class")
    found = build_teacher(features(32, places=4, patch=8), norm)(images())
    single = build_teacher(features(16, places=1, patch=32), projection)(images())
    pooling = TransformersTeacherConfig(name=str(tmp_path / "siglip"), tokens="pooled")
    pooled = build_teacher(features(32, places=1, patch=32), pooling)(images())

    with torch.no_grad():
        expected = dino(pixel_values=images()).last_hidden_state[:, 1:]
        hidden = clip.vision_model(pixel_values=images()).pooler_output
        attended = siglip.vision_model(pixel_values=images()).pooler_output
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)
    torch.testing.assert_close(single[:, :, 0, 0], clip.visual_projection(hidden).detach())
    torch.testing.assert_close(pooled[:, :, 0, 0], attended)
    with pytest.raises(ConfigError, match="output is projection, but .* has none"):
        build_teacher(features(32, places=4, patch=8), replace(norm, output="projection"))
    with pytest.raises(CheckpointError, match="weights cannot be loaded"):
        build_teacher(features(32, places=4, patch=8), TransformersTeacherConfig(name=str(tmp_path)))
