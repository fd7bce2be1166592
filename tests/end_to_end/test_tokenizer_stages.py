"""A trained tokenizer gets another decoder, or a second stage at several resolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.divae import DiVAE
from fourm.tokenizers.saved import saved_hash
from tests.end_to_end.conftest import TOKENIZER, assert_one_clear_message

DIVAE = """
base: tokenizers/rooms_depth
variables: {root: ???}
name: depth_by_diffusion
tokenizer:
  kind: divae
  encoder: {kind: conv, stem: 4, widths: [32, 128], num_blocks: [1, 1]}
  quantizer: {kind: ema, codebook_size: 512, dim: 16, cosine: false, decay: 0.96}
  denoiser: {kind: unet, patch_size: 4, width: 8, multipliers: [1, 2], num_blocks: 1, attention_levels: [], groups: 4}
  sampling: {num_steps: 4}
  freeze_encoder: true
encoder_from: ${variables.root}/tokenizers/depth
objective: {loss: smooth_l1}
train: {ema_decay: 0.9, freeze: ["decoder.network.conv_in.*"]}
output: ${variables.root}/tokenizers/depth_by_diffusion
"""


@pytest.fixture
def first(world: Path) -> Path:
    """The tokenizer that made the tokens of the world."""
    return world / "tokenizers" / "depth" / "model"


@pytest.fixture
def second(world: Path, fourm: Any) -> Path:
    """A diffusion decoder for the same tokens."""
    (world / "divae.yaml").write_text(DIVAE.replace("???", str(world)))
    assert fourm("train-tokenizer", world / "divae.yaml", *TOKENIZER).status == 0
    return world / "tokenizers" / "depth_by_diffusion" / "model"


def test_a_decoder_for_a_frozen_encoder_reads_the_same_tokens(first: Path, second: Path) -> None:
    old, new = load_tokenizer(first), load_tokenizer(second)

    assert isinstance(new, DiVAE)
    assert saved_hash(second) == saved_hash(first) == new.hash
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(new.encode(images), old.encode(images))
    assert new.decode(old.encode(images)).shape == (2, 1, 64, 64)


def test_only_what_is_not_frozen_was_trained(world: Path, first: Path, second: Path, fourm: Any) -> None:
    recipe, output = world / "divae.yaml", f"output={world}/again"
    assert (
        fourm(
            "train-tokenizer", recipe, *TOKENIZER, "train.optimizer.lr=1e-12", "train.optimizer.matrix_lr=1e-12", output
        ).status
        == 0
    )

    trained, fresh = (load_tokenizer(folder).state_dict() for folder in (second, world / "again"))

    moved = {name for name in trained if not torch.equal(trained[name], fresh[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)
    assert not any(name.startswith("decoder.network.conv_in.") for name in moved)


def test_tokens_of_the_one_train_a_model_with_the_other(world: Path, second: Path, fourm: Any) -> None:
    model = world / "with_diffusion"
    outcome = fourm("pretrain", world / "tiny.yaml", f"tokenizers.tok_depth@64={second}", f"output={model}")
    assert outcome.status == 0, outcome.err

    words = ["generate", model, "--given", "caption=a red sofa", "--to", "depth", "--seed", "3", "--out"]
    for folder, options in {
        "a": (),
        "b": ("--decoder-steps", 2, "--decoder-scheduler", "dpm"),
        "c": ("--bf16",),
    }.items():
        assert fourm(*words, world / folder, *options).status == 0
    depth = {name: (world / name / "depth.png").read_bytes() for name in "ab"}
    assert depth["a"] != depth["b"]
    assert_one_clear_message(fourm(*words, world / "d", "--decoder-steps", 2000), ["num_steps is 2000"])


def test_decoding_options_are_refused_where_nothing_is_decoded_by_diffusion(world: Path, fourm: Any) -> None:
    assert fourm("pretrain", world / "tiny.yaml").status == 0
    words = ["generate", world / "model", "--given", "caption=a red sofa", "--to", "depth", "--out", world / "new"]

    outcome = fourm(*words, "--decoder-steps", 2)

    assert_one_clear_message(outcome, ["num_steps", "by diffusion", "tok_depth@64"])
    assert not (world / "new").exists()


def test_a_second_stage_goes_on_from_the_first_at_several_resolutions(world: Path, first: Path, fourm: Any) -> None:
    words = ["train-tokenizer", "rooms_depth", f"variables.root={world}", *TOKENIZER, f"output={world}/stage2"]
    stage = [
        f"init_from={first}",
        "data.resolutions=[32,64,96]",
        "train.optimizer.lr=1e-12",
        "train.optimizer.matrix_lr=1e-12",
    ]

    assert fourm(*words, *stage).status == 0

    before, after = (load_tokenizer(folder).decoder.state_dict() for folder in (first, world / "stage2"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    outcome = fourm(*words, f"init_from={first}", "data.resolutions=[32,60]", f"output={world}/other")
    assert_one_clear_message(outcome, ["60", "multiples of 8"])
    assert not (world / "other").exists()
