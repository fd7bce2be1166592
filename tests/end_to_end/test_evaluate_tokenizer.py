"""`fourm evaluate tokenizer`, from training a tokenizer to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourm.data.shards import ShardWriter
from tests.end_to_end import spoil
from tests.end_to_end.conftest import TOKENIZER, assert_one_clear_message

DIVAE = """
base: tokenizers/rooms_rgb
name: tiny_divae
tokenizer:
  kind: divae
  encoder: {kind: conv, stem: 4, widths: [8, 16], num_blocks: [1, 1]}
  quantizer: {kind: ema, codebook_size: 512, dim: 8, cosine: false}
  denoiser: {kind: unet, patch_size: 4, width: 8, multipliers: [1, 2], num_blocks: 1, attention_levels: [], groups: 4}
"""
TAUGHT = """
base: tokenizers/rooms_rgb
name: tiny_features
modality:
  features@32:
    layout: {kind: grid, height: 2, width: 2, patch_size: 16}
    content: {kind: continuous, dim: 64}
    source: rgb
    decode: image
    teacher: tiny
    channels: 3
    value_range: [0.0, 1.0]
    normalization: imagenet
tokenizer:
  kind: vqvae
  encoder: {kind: vit, dim: 16, depth: 1, num_heads: 2, patch_size: 1}
  decoder: {kind: vit, dim: 16, depth: 1, num_heads: 2, patch_size: 1}
  quantizer: {kind: ema, codebook_size: 512, dim: 8, cosine: false}
  teacher: {kind: timm, name: test_vit, pretrained: false}
objective: {kind: reconstruct, loss: smooth_l1}
"""
SPEEDS = {"encode_images_per_second", "decode_images_per_second"}


def test_a_depth_tokenizer_is_measured_on_held_out_rooms(world: Path, fourm: Any) -> None:
    outcome = fourm("evaluate", "tokenizer", world / "tokenizers" / "depth", world / "rooms" / "test", "batch_size=3")

    assert outcome.status == 0, outcome.err
    assert "Depth reconstruction" in outcome.out
    assert "relative depth" in outcome.out
    output = world / "tokenizers" / "depth" / "evaluation"
    (found,) = json.loads((output / "metrics.json").read_text()).items()
    assert found[0] == "depth_reconstruction"
    assert set(found[1]) == {"abs_rel", "delta1", "codes_used", "perplexity", *SPEEDS}
    page = (output / "report.html").read_text()
    assert "Originals beside their reconstructions" in page
    assert "8 samples" in page
    assert "://" not in page
    assert Image.open(output / "pictures" / "reconstruction.png").width > 2 * 128


@pytest.mark.slow  # importing torchmetrics takes many seconds
@pytest.mark.parametrize("kind", ["vqvae", "divae"])
def test_colour_tokenizers_of_every_family_draw_while_they_train_and_are_measured(
    kind: str, world: Path, fourm: Any
) -> None:
    (world / "divae.yaml").write_text(DIVAE)
    recipe = "rooms_rgb" if kind == "vqvae" else world / "divae.yaml"
    trained = world / kind
    assert (
        fourm(
            "train-tokenizer", recipe, f"variables.root={world}", f"output={trained}", *TOKENIZER,
            "train.pictures_every_steps=1", "pictures.num_samples=2",
        ).status
        == 0
    )  # fmt: skip
    drawn = sorted(path.parent.name for path in (trained / "pictures").rglob("reconstructions.png"))
    assert drawn == ["step-00000001", "step-00000002"]

    few_steps = ["decoding.num_steps=2", "decoding.scheduler=dpm"] if kind == "divae" else []
    outcome = fourm(
        "evaluate", "tokenizer", trained, world / "rooms" / "test", "networks=[]", f"output={world}/{kind}_measured",
        "num_samples=4", "num_pictures=2", *few_steps,
    )  # fmt: skip

    assert outcome.status == 0, outcome.err
    metrics = json.loads((world / f"{kind}_measured" / "metrics.json").read_text())["rgb_reconstruction"]
    both = {f"{prefix}{name}" for prefix in ("", "bicubic_") for name in ("psnr", "ssim", "high_frequency_ratio")}
    assert set(metrics) == {*both, "psnr_gain", "codes_used", "perplexity", *SPEEDS}
    assert 0 < metrics["codes_used"] <= 4 * 64 / 512
    assert metrics["bicubic_psnr"] > metrics["psnr"]  # after two steps of training
    assert ("dpm, 2 steps" in (world / f"{kind}_measured" / "report.html").read_text()) == (kind == "divae")


@pytest.mark.slow  # importing timm takes many seconds
def test_features_of_a_teacher_are_drawn_in_training_and_compared_by_direction(world: Path, fourm: Any) -> None:
    (world / "taught.yaml").write_text(TAUGHT)
    trained = world / "taught"
    outcome = fourm(
        "train-tokenizer", world / "taught.yaml", f"variables.root={world}", f"output={trained}", *TOKENIZER
    )
    assert outcome.status == 0, outcome.err
    assert (trained / "pictures" / "step-00000002" / "reconstructions.png").is_file()

    outcome = fourm("evaluate", "tokenizer", trained, world / "rooms" / "test", "batch_size=3")
    assert outcome.status == 0, outcome.err
    metrics = json.loads((trained / "evaluation" / "metrics.json").read_text())["features_reconstruction"]
    assert set(metrics) == {"cosine_similarity", "explained_variance", "codes_used", "perplexity", *SPEEDS}
    assert -1 < metrics["cosine_similarity"] < 1

    outcome = fourm("evaluate", "tokenizer", trained, world / "rooms" / "test", f"teacher_weights={world}/nowhere")
    assert_one_clear_message(outcome, ["nowhere"])


def empty_depth(root: Path) -> None:
    for file in (root / "rooms" / "test" / "depth").glob("shard-*"):
        file.unlink()
    with ShardWriter(root / "rooms" / "test", 0, {"depth": "png"}):
        pass


def colours_for_depth(root: Path) -> None:
    (root / "rooms" / "test" / "depth").rename(root / "depth")
    (root / "rooms" / "test" / "rgb").rename(root / "rooms" / "test" / "depth")


@pytest.mark.parametrize(
    ("damage", "arguments", "named"),
    [
        (spoil.nothing, "{root}/nowhere {data}", ["nowhere", "not a saved tokenizer", "train-tokenizer"]),
        (spoil.nothing, "{root}/rooms {data}", ["rooms", "config.json"]),
        (spoil.damaged_tokenizer, "{depth} {data}", ["model.safetensors"]),
        (spoil.nothing, "{depth} {root}/nowhere", ["nowhere", "does not exist"]),
        (spoil.nothing, "{depth} {data} source=dept", ["dept"]),
        (empty_depth, "{depth} {data}", ["rooms/test", "empty"]),
        (colours_for_depth, "{depth} {data}", ["depth", "16-bit"]),
        (spoil.nothing, "{depth} {data} decoding.num_steps=3", ["decoding.num_steps", "diffusion"]),
        (spoil.nothing, "{depth} {data} num_sample=3", ["num_sample", "Did you mean 'num_samples'"]),
        (spoil.nothing, "{depth} {data} batch_size=0", ["batch_size", "0"]),
        (spoil.nothing, "{depth} {data} networks=[lpip]", ["networks", "lpip"]),
        (spoil.nothing, "{depth} {data} crop.kind=centre", ["crop.kind", "center"]),
        (spoil.nothing, "{depth} {data} teacher_weights=x", ["teacher"]),
        (spoil.nothing, "{depth} {data} device=tpu", ["device", "tpu"]),
    ],
    ids=lambda value: getattr(value, "__name__", value if isinstance(value, str) else ""),
)
def test_bad_input_ends_with_one_clear_message(
    damage: spoil.Callable[[Path], None], arguments: str, named: list[str], world: Path, fourm: Any
) -> None:
    damage(world)
    words = {"root": world, "depth": world / "tokenizers" / "depth", "data": world / "rooms" / "test"}

    outcome = fourm("evaluate", "tokenizer", *arguments.format(**words).split())

    assert_one_clear_message(outcome, named)
    assert not list(world.rglob("report.html"))


@pytest.mark.parametrize("arguments", [[], ["only_a_tokenizer"]])
def test_a_missing_argument_is_a_usage_error(arguments: list[str], fourm: Any) -> None:
    outcome = fourm("evaluate", "tokenizer", *arguments)

    assert outcome.status == 2
    assert "Missing argument" in outcome.err
