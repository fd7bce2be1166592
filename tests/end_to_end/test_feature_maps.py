"""A tokenizer of feature maps, from images to tokens, by YAML alone; its teacher is a tiny random network."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.data.shards import read_source_facts
from fourm.data.source import open_source
from fourm.tokenizers.base import load_tokenizer
from fourm.train.tracking import read_log
from tests.end_to_end.conftest import assert_one_clear_message

RECIPE = """
variables: {root: ???}
name: maps
modality:
  maps@32:
    layout: {kind: grid, height: 2, width: 2, patch_size: 16}
    content: {kind: continuous, dim: 64}
    source: rgb
    decode: image
    channels: 3
    value_range: [0.0, 1.0]
    normalization: imagenet
    teacher: tiny
data:
  train: {datasets: {rooms: {path: "${variables.root}/rooms/train", hflip: 0.5}}}
  val: {datasets: {rooms: {path: "${variables.root}/rooms/test"}}}
tokenizer:
  kind: vqvae
  teacher: {kind: timm, name: test_vit, pretrained: false}
  encoder: {kind: vit, dim: 32, depth: 1, num_heads: 2, patch_size: 1}
  decoder: {kind: vit, dim: 32, depth: 1, num_heads: 2, patch_size: 1}
  quantizer: {kind: ema, codebook_size: 32, dim: 8}
objective: {kind: reconstruct, loss: smooth_l1, commit_weight: 0.1}
train:
  max_steps: 30
  batch_size: 8
  precision: fp32
  device: cpu
  tensorboard: false
  optimizer: {lr: 3.0e-3}
  schedule: {kind: constant}
  log_every_steps: 1
  save_every_steps: 15
output: ${variables.root}/maps
"""


@pytest.fixture
def recipe(world: Path) -> Path:
    path = world / "maps.yaml"
    path.write_text(RECIPE.replace("???", str(world)))
    return path


def losses(output: Path, kind: str = "train") -> list[float]:
    return [record["loss/reconstruct"] for record in read_log(output / "log.jsonl") if record["kind"] == kind]


def test_a_tokenizer_of_a_teachers_features_learns_and_makes_tokens(world: Path, recipe: Path, fourm: Any) -> None:
    assert fourm("train-tokenizer", recipe).status == 0
    outcome = fourm("tokenize", world / "maps", world / "rooms" / "test", "--device", "cpu")
    assert outcome.status == 0, outcome.err

    found = losses(world / "maps")
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    assert losses(world / "maps", "eval")
    tokenizer = load_tokenizer(world / "maps" / "model")
    tokens = open_source(str(world / "rooms" / "test"), ["tok_maps", "rgb"])
    ids = np.load(io.BytesIO(tokens.read(3)["tok_maps"]))
    assert ids.shape == (1, 4)
    assert 0 <= ids.min() <= ids.max() < 32
    assert read_source_facts(world / "rooms" / "test", "tok_maps")["tokenizer_hash"] == tokenizer.hash
    assert not [name for name in tokenizer.state_dict() if "teacher" in name]


def test_what_the_teacher_lacks_is_an_error_before_training(world: Path, recipe: Path, fourm: Any) -> None:
    missing = "tokenizer.teacher={kind: timm, name: test_vit, weights: gone.safetensors}"
    assert_one_clear_message(
        fourm("train-tokenizer", recipe, missing), ["tokenizer.teacher.weights", "gone.safetensors"]
    )
    narrow = fourm("train-tokenizer", recipe, "modality={maps@32: {content: {kind: continuous, dim: 48}}}")
    assert_one_clear_message(narrow, ["declares 48 numbers in 2 x 2 places", "its teacher makes 64"])
    assert not (world / "maps" / "log.jsonl").exists()


def test_the_weights_of_the_teacher_may_have_moved_when_tokens_are_made(world: Path, recipe: Path, fourm: Any) -> None:
    assert fourm("train-tokenizer", recipe, "train.max_steps=1", "train.save_every_steps=null").status == 0

    outcome = fourm("tokenize", world / "maps", world / "rooms" / "test", "--teacher-weights", world / "gone.pth")

    assert_one_clear_message(outcome, ["tokenizer.teacher.weights", "gone.pth"])
    assert not (world / "rooms" / "test" / "tok_maps").exists()


@pytest.mark.slow
def test_two_ranks_learn_what_one_does_and_checkpoints_hold_no_teacher(
    world: Path, recipe: Path, fourm: Any, checkout: Path
) -> None:
    from torch.distributed.checkpoint import FileSystemReader

    short = ["train.max_steps=6", "train.save_every_steps=6", "evaluation.max_samples=4"]
    assert fourm("train-tokenizer", recipe, *short).status == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, "-m", *launcher, "tokenizers_train/vq.py", str(recipe), *short, f"output={world}/two"]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr

    one, two = (torch.tensor(losses(world / name)) for name in ("maps", "two"))
    assert len(one) == 6
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        torch.tensor(losses(world / "two", "eval")), torch.tensor(losses(world / "maps", "eval")), rtol=1e-3, atol=1e-5
    )
    (checkpoint,) = (world / "two" / "checkpoints").glob("step-*")
    metadata = next(path for path in checkpoint.rglob(".metadata"))
    names = FileSystemReader(metadata.parent).read_metadata().state_dict_metadata
    assert names
    assert not [name for name in names if "teacher" in name or "patch_embed" in name]
