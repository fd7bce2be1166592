"""Published AIM and AIMv2 encoders, converted: features and answers are what the published code computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fourm
from fourm.cli import main
from fourm.config import build
from fourm.errors import CheckpointError
from fourm.recipe import aim as aims
from fourm.recipe.finetune import open_source
from fourm.recipe.finetune_network import build_network
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.transfer.folder import load_network
from tests.parity.rebuild import golden, tensors, values

TOLERANCE = 2e-4
SMALL = {
    "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28,
}  # fmt: skip
Hub = Callable[[str], Path]


def images(name: str) -> Tensor:
    return values(f"input.{name}", [2, 3, 112, 112], "normal:1.0")


def convert(*arguments: str | Path) -> None:
    main(["convert", *map(str, arguments)])


@pytest.fixture(scope="module")
def aim(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aim") / "aim"
    convert("aim", hub("aim_v1_tiny"), out)
    return out


@pytest.fixture(scope="module")
def aimv2(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aim") / "aimv2"
    convert("aimv2", hub("aim_v2_tiny"), out)
    return out


def assert_read_at(expected: dict[str, Any], found: Tensor) -> None:
    flat = found.flatten()[torch.tensor(expected["flat_index"])]
    torch.testing.assert_close(flat, torch.tensor(expected["values"]), rtol=0, atol=TOLERANCE)


def blocks(path: Path, name: str, prefix: Tensor | None = None) -> Tensor:
    """(depth, B, N, dim) outputs of every block."""
    backbone = fourm.backbone(path, out_layers=range(4), normalize=False)
    return torch.stack([m.flatten(2).transpose(1, 2) for m in backbone(images(name), prefix_lengths=prefix).values()])


@torch.no_grad()
def test_the_probe_answers_as_published(aim: Path) -> None:
    network = fourm.load_network(aim).network

    assert_read_at(golden("aim_v1_tiny")["expected"]["logits"], network(images("aim_v1_tiny")))


@torch.no_grad()
def test_the_features_of_every_block_are_the_published_ones(aim: Path) -> None:
    found = blocks(aim, "aim_v1_tiny")

    for expected, block in zip(golden("aim_v1_tiny")["expected"]["bidirectional_features"], found, strict=True):
        assert_read_at(expected, block)


@torch.no_grad()
def test_with_prefixes_they_are_the_published_prefix_causal_ones(aim: Path) -> None:
    expected = golden("aim_v1_tiny")["expected"]

    found = blocks(aim, "aim_v1_tiny", torch.tensor(expected["prefix_lengths"]))

    for one, block in zip(expected["prefix_causal_features"], found, strict=True):
        assert_read_at(one, block)


@torch.no_grad()
def test_the_second_versions_output_is_the_published_one(aimv2: Path) -> None:
    backbone = fourm.backbone(aimv2)

    map_ = backbone(images("aim_v2_tiny"))["0"]

    assert_read_at(golden("aim_v2_tiny")["expected"]["output"], map_.flatten(2).transpose(1, 2))
    assert_read_at(golden("aim_v2_tiny")["expected"]["output"], backbone.forward_features(images("aim_v2_tiny")))


@torch.no_grad()
@pytest.mark.parametrize("native", [False, True])
def test_the_second_version_is_that_of_transformers_with_both_kinds_of_positions(native: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Aimv2VisionConfig(
        hidden_size=48, intermediate_size=128, num_hidden_layers=2, num_attention_heads=3, image_size=112,
        is_native=native, use_head=False,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.Aimv2VisionModel(config).eval()
    torch.save(in_the_published_layout(theirs.state_dict(), 2), tmp_path / "encoder.pth")
    pixels = torch.randn(2, 3, 70, 98) if native else torch.randn(2, 3, 112, 112)

    convert("aimv2", tmp_path / "encoder.pth", tmp_path / "out", "--heads", 3)

    torch.testing.assert_close(
        fourm.backbone(tmp_path / "out").forward_features(pixels),
        theirs(pixels).last_hidden_state, rtol=0, atol=TOLERANCE,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("told", "eps"), [({"rms_norm_eps": 0.1}, 0.1), ({}, 1e-5)])
def test_the_config_says_the_epsilon_of_the_norms(told: dict[str, float], eps: float, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Aimv2VisionConfig(**SMALL, rms_norm_eps=eps, use_head=False)
    theirs = transformers.Aimv2VisionModel(config).eval()
    save_file(in_the_published_layout(theirs.state_dict(), 2), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "patch_size": 14, **told}))
    pixels = torch.randn(2, 3, 28, 28)

    convert("aimv2", tmp_path, tmp_path / "out")

    torch.testing.assert_close(
        fourm.backbone(tmp_path / "out").forward_features(pixels),
        theirs(pixels).last_hidden_state, rtol=0, atol=TOLERANCE,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"is_native": True, "use_head": False, "rms_norm_eps": 0.1}])
def test_a_folder_that_transformers_saved_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**SMALL, **options)).eval()
    for name, parameter in theirs.named_parameters():
        if "norm" in name or name.endswith("bias"):  # which begin as constants
            parameter.add_(0.2 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "hf")
    pixels = torch.randn(2, 3, 28, 28)

    convert("aimv2", tmp_path / "hf", tmp_path / "out")

    torch.testing.assert_close(
        fourm.backbone(tmp_path / "out").forward_features(pixels),
        theirs(pixels).last_hidden_state, rtol=0, atol=TOLERANCE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qkv_bias": True}, r"without a place: .*trunk.blocks.0.attn.qkv.bias"),
        ({"hidden_act": "gelu"}, "hidden_act gelu; only silu"),
    ],
)
def test_one_that_a_trunk_has_no_place_for_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**SMALL, **options))
    theirs.save_pretrained(tmp_path / "hf")

    with pytest.raises(CheckpointError, match=message):
        aims.convert(tmp_path / "hf", tmp_path / "out", version="aimv2")
    assert not (tmp_path / "out").exists()


def test_one_whose_queries_lack_their_keys_is_refused(tmp_path: Path) -> None:
    state = {"embeddings.patch_embed.weight": torch.zeros(4, 3, 2, 2)}
    state |= {f"encoder.layers.0.attention.{name}_proj.weight": torch.zeros(4, 4) for name in "qv"}
    torch.save(state, tmp_path / "encoder.pth")

    with pytest.raises(CheckpointError, match=r"trunk.blocks.0.attn.qkv.weight should be made of 3 tensors"):
        aims.convert(tmp_path / "encoder.pth", tmp_path / "out", version="aimv2")


def in_the_published_layout(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The weights of an encoder of transformers under the names of its own publication."""
    found = {
        "preprocessor.patchifier.proj.weight": state["embeddings.patch_embed.weight"],
        "preprocessor.patchifier.proj.bias": state["embeddings.patch_embed.bias"],
        "preprocessor.patchifier.norm.weight": state["embeddings.rms_norm.weight"],
        "trunk.post_trunk_norm.weight": state["rms_norm.weight"],
    }
    if "embeddings.position_embedding.weight" in state:
        found["preprocessor.pos_embed"] = state["embeddings.position_embedding.weight"][None]
    for i in range(depth):
        ours, own = f"trunk.blocks.{i}", f"encoder.layers.{i}"
        parts = [state[f"{own}.attention.{name}_proj.weight"] for name in "qkv"]
        found |= {
            f"{ours}.attn.qkv.weight": torch.cat(parts),
            f"{ours}.attn.proj.weight": state[f"{own}.attention.out_proj.weight"],
            f"{ours}.norm_1.weight": state[f"{own}.rms_norm1.weight"],
            f"{ours}.norm_2.weight": state[f"{own}.rms_norm2.weight"],
            f"{ours}.mlp.fc1.weight": state[f"{own}.ffn.gate_proj.weight"],
            f"{ours}.mlp.fc2.weight": state[f"{own}.ffn.down_proj.weight"],
            f"{ours}.mlp.fc3.weight": state[f"{own}.ffn.up_proj.weight"],
        }
    return found


@torch.no_grad()
def test_files_of_encoder_and_probe_apart_are_the_same_network(aim: Path, tmp_path: Path) -> None:
    facts = golden("aim_v1_tiny")
    state = tensors(facts)
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    body = {name: tensor for name, tensor in state.items() if name not in head}
    torch.save(body, tmp_path / "aim_backbone.pth")
    torch.save(head, tmp_path / "aim_head_last_layers.pth")

    convert(
        "aim", tmp_path / "aim_backbone.pth", tmp_path / "out",
        "--head", tmp_path / "aim_head_last_layers.pth", "--layers", "1-3", "--heads", 3,
    )  # fmt: skip

    ours, same = load_network(tmp_path / "out").network.state_dict(), load_network(aim).network.state_dict()
    assert [name.replace("rgb@224", "rgb@112") for name in ours] == list(same)  # a file does not tell its size
    assert all(map(torch.equal, ours.values(), same.values()))
    assert load_network(tmp_path / "out").network.backbone.average_layers == [1, 2, 3]


@torch.no_grad()
def test_an_encoder_alone_gives_the_same_features(aim: Path, tmp_path: Path) -> None:
    body = {n: t for n, t in tensors(golden("aim_v1_tiny")).items() if not n.startswith("head.")}
    torch.save(body, tmp_path / "body.pth")

    convert("aim", tmp_path / "body.pth", tmp_path / "out", "--heads", 3)

    pixels = images("aim_v1_tiny")
    whole = fourm.backbone(aim, out_layers=[3])(pixels)["0"]
    alone = fourm.backbone(tmp_path / "out", places="counted")  # not told that it was trained on 112 pixels
    torch.testing.assert_close(alone(pixels)["0"], whole)
    with pytest.raises(CheckpointError, match="without a head"):
        fourm.load_network(tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("version", ["aim", "aimv2"])
def test_fine_tuning_begins_with_the_converted_encoder(version: str, request: Any) -> None:
    folder = request.getfixturevalue(version)
    values = {
        "name": "probe", "init_from": str(folder), "frozen": True, "backbone": {"modalities": ["rgb"]},
        "objective": {"kind": "classification", "num_classes": 3}, "head": {"kind": "attentive", "form": "aim"},
        "data": {"train": {"datasets": {"some": {"path": "nowhere"}}}}, "train": {"max_steps": 1},
    }  # fmt: skip
    values["head"]["num_heads"] = None
    recipe = build(FinetuneRecipe, values)
    network, _ = build_network(recipe, recipe.answer(), open_source(recipe.init_from)[0])
    pixels = images(golden({"aim": "aim_v1_tiny", "aimv2": "aim_v2_tiny"}[version])["name"])

    last = fourm.backbone(folder, out_layers=[-1])(pixels)["0"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(network.eval().backbone.forward_features(pixels), last)
    assert network(pixels).shape == (2, 3)
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"head"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("trunk.blocks.2.mlp.fc2.weight"), "missing: trunk.blocks.2.mlp.fc2.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "without a place: extra"),
        (lambda state: state.pop("head.k.weight"), "missing: head.k.weight"),
        (lambda state: state.pop("preprocessor.patchifier.proj.weight"), "has the tensor preprocessor"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_written(change: Any, message: str, tmp_path: Path) -> None:
    state = tensors(golden("aim_v1_tiny"))
    change(state)
    torch.save(state, tmp_path / "aim.pth")

    with pytest.raises(CheckpointError, match=message):
        aims.convert(tmp_path / "aim.pth", tmp_path / "out", version="aim", num_heads=3)

    assert not (tmp_path / "out").exists()


def test_heads_that_nothing_tells_of_are_asked_for(tmp_path: Path) -> None:
    """48 channels, which published heads of 128 do not divide."""
    torch.save(tensors(golden("aim_v1_tiny")), tmp_path / "aim.pth")

    with pytest.raises(CheckpointError, match="its width of 48 is no multiple of 128.* give them by --heads"):
        aims.convert(tmp_path / "aim.pth", tmp_path / "out", version="aim")


def test_the_other_version_is_told(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="use `fourm convert aimv2`"):
        aims.convert(hub("aim_v2_tiny"), tmp_path / "out", version="aim")
