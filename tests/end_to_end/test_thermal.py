"""A modality that nobody knows, a thermal camera's, by YAML alone: a model learns to see the warmth of things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.end_to_end.pages import blocks
from tests.photographs import photograph

pytestmark = pytest.mark.slow
README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
NUM_PHOTOS = 160
TOP = 120.0


def warmth(image: Image.Image) -> np.ndarray:
    """Degrees of every pixel: red things are warm."""
    red, green, blue = np.asarray(image, float).transpose(2, 0, 1) / 255
    return TOP * np.clip(0.5 + 0.5 * (red - (green + blue) / 2), 0, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    photos, thermal = tmp_path / "data" / "mine" / "photos", tmp_path / "data" / "mine" / "thermal"
    photos.mkdir(parents=True)
    thermal.mkdir()
    for n in range(NUM_PHOTOS):
        image = photograph(n, 64, 64)
        image.save(photos / f"{n:04d}.png")
        (photos / f"{n:04d}.txt").write_text("a thing")
        Image.fromarray(np.rint(warmth(image) / TOP * 65535).astype(np.uint16)).save(thermal / f"{n:04d}.png")
    for name, text in blocks(README)[1].items():
        (tmp_path / name).write_text(text)
    # What the README trains for a day, for half a minute: without text, which is not asked for here.
    model = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    del model["modalities"]["caption"], model["tokenizers"]["text"], model["modalities"]["tok_rgb@64"]
    del model["tokenizers"]["tok_rgb@64"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(model))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_photographs_give_thermal_images(folder: Path, fourm: Any) -> None:
    small = ["train.batch_size=16", "train.device=cpu", "train.precision=fp32", "train.tensorboard=false"]
    tokens = ["objective.num_input_tokens=64", "objective.num_target_tokens=64"]
    model = ["model.dim=64", "model.encoder_depth=2", "model.decoder_depth=2", "model.num_heads=1"]
    model += ["model.tie_heads=false", "model.embedding_std=0.4", "model.codebook_init=true"]  # as the quick start
    model += ["train.optimizer={kind: muon, lr: 2.0e-3, matrix_lr: 0.02}", "train.save_every_steps=1000"]
    for command in (
        ["prepare", "photos", "data/mine/photos", "data/shards", "--recipe", "labels.yaml"],
        ["prepare", "verify", "data/shards"],
        ["train-tokenizer", "thermal.yaml", "train.max_steps=200", *small],
        ["tokenize", "outputs/mine/thermal", "data/shards"],
        ["pretrain", "mine.yaml", "train.max_steps=300", *model, *tokens, *small],
    ):
        outcome = fourm(*command)
        assert outcome.status == 0, f"{command}: {outcome.err}"
    ours, baseline = [], []
    for n in range(NUM_PHOTOS, NUM_PHOTOS + 6):
        image = photograph(n, 64, 64)
        image.save(f"new{n}.png")
        outcome = fourm(
            "generate", "outputs/mine/model", "--given", f"rgb=new{n}.png", "--to", "thermal", "--out", f"seen{n}"
        )
        assert outcome.status == 0, outcome.err
        with Image.open(f"seen{n}/thermal.png") as made:
            assert made.mode == "I;16"
            seen = np.asarray(made, float) / 65535 * TOP
        ours.append(np.abs(seen - warmth(image)).mean())
        baseline.append(np.abs(warmth(image) - 60).mean())
    assert np.mean(ours) < 0.8 * np.mean(baseline), (ours, baseline)
