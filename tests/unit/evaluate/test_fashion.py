from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.evaluate import fashion
from fourm.evaluate.caption_configs import ClassifierConfig
from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.predict import Predictor


@pytest.fixture
def config(photographs: Path, tmp_path: Path) -> EvaluateConfig:
    judge = ClassifierConfig(widths=(4, 4, 4), epochs=1, batch_size=20)
    return EvaluateConfig(
        "fashion", Path("model"), photographs / "test", photographs / "train", tmp_path / "out",
        batch_size=8, num_pictures=3, num_steps=2, num_captions=1, classifier=judge,
    )  # fmt: skip


def test_every_task_has_its_keys(config: EvaluateConfig, fashion_bundle: Any) -> None:
    outcome = fashion.evaluate_fashion(config, Predictor(fashion_bundle, torch.device("cpu")))
    keys = {task: set(values) for task, values in outcome.metrics.items()}
    assert keys["image_to_caption"] == {"accuracy", "baseline_accuracy"}
    assert keys["caption_to_image"] == {"accuracy", "upper_bound", "classifier_accuracy"}
    assert keys["half_to_whole"] == {"psnr", "baseline_psnr"}
    assert keys["image_to_silhouette"] == {"miou", "baseline_miou"}
    assert outcome.metrics["image_to_caption"]["baseline_accuracy"] == pytest.approx(0.1)
    assert (config.output / "classifier" / "config.json").is_file()
    assert all(len(row) == len(table.columns) for table in outcome.tables for row in table.cells)


def test_prompts_are_captions_of_every_class(config: EvaluateConfig, fashion_bundle: Any) -> None:
    raw = fashion.raw_modalities(Predictor(fashion_bundle, torch.device("cpu")))
    samples = fashion.Samples(config.test, raw)
    _, labels = fashion.load(samples)
    prompts, prompt_labels = fashion.choose_prompts(samples, labels, 2)
    assert len(prompts) == 20
    assert [fashion._label(prompt) for prompt in prompts] == prompt_labels.tolist()


def test_completion_sees_the_first_half_of_the_patches_and_nothing_else(
    config: EvaluateConfig, fashion_bundle: Any
) -> None:
    predictor = Predictor(fashion_bundle, torch.device("cpu"))
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    below, within = images.clone(), images.clone()
    below[..., 12:16, 12:] = 0.5  # the 25th patch is the fourth of the fourth row
    below[..., 16:, :] = 0.5
    within[..., 12:16, :12] = 0.5
    whole, same, another = (fashion.complete(predictor, x, 0, config) for x in (images, below, within))
    assert torch.equal(whole, same)
    assert not torch.equal(whole, another)


def test_a_perfect_completion_beats_the_mean(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(4, 1, 28, 28)
    images[..., 14:, :] = 0.5
    monkeypatch.setattr(fashion, "complete", lambda predictor, batch, first, config: batch)
    found = fashion.half_to_whole(None, images, torch.full((1, 28, 28), 0.4), config)  # type: ignore[arg-type]
    assert found["baseline_psnr"] == pytest.approx(-10 * math.log10((0.4**2 + 0.1**2) / 2), abs=1e-4)
    assert found["psnr"] > 100
