"""Predictions out of the box are measured by their protocols, and agree with values worked out independently."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.config import build
from fourm.errors import ConfigError, DataError
from fourm.evaluate import answers as protocol
from fourm.evaluate import configs, job
from fourm.evaluate.answer_scores import BoxScore, CaptionScore, DepthErrors
from fourm.evaluate.configs import AnswersEvaluation
from fourm.evaluate.predict import Predictor

CPU = torch.device("cpu")


def settings(rooms: Path, tmp_path: Path, **changes: Any) -> AnswersEvaluation:
    plain = {"kind": "answers", "model": "unused", "data": str(rooms / "test"), "output": str(tmp_path / "out")}
    return build(AnswersEvaluation, plain | changes)


def measure(rooms_bundle: Any, config: AnswersEvaluation) -> Any:
    return protocol.evaluate_answers(config, Predictor(rooms_bundle, CPU, config.seed))


# ------------------------------------------------------------ the whole protocol


def test_all_that_model_and_data_have_is_measured(rooms_bundle: Any, rooms: Path, tmp_path: Path) -> None:
    outcome = measure(rooms_bundle, settings(rooms, tmp_path))
    assert {task: sorted(values) for task, values in outcome.metrics.items()} == {
        "rgb_to_depth": ["abs_rel", "delta1", "rmse"],
        "rgb_to_normal": ["mean_angle", "within_11"],
        "rgb_to_semseg": ["miou"],
        "rgb_to_det": ["box_ap", "box_ap50"],
        "rgb_to_caption": ["bleu4"],
    }
    assert all(math.isfinite(value) for values in outcome.metrics.values() for value in values.values())
    assert len(outcome.tables[0].cells) == 5


def test_results_do_not_depend_on_the_batches(rooms_bundle: Any, rooms: Path, tmp_path: Path) -> None:
    found = [
        measure(rooms_bundle, settings(rooms, tmp_path, batch_size=size, ensemble=2, tasks=["depth", "semseg"])).metrics
        for size in (2, 5)
    ]
    for task, values in found[0].items():
        assert found[1][task] == pytest.approx(values, rel=1e-4)


def test_an_ensemble_is_the_mean_of_its_answers(rooms_bundle: Any, rooms: Path, tmp_path: Path) -> None:
    def predicted(count: int) -> Tensor:
        config = settings(rooms, tmp_path, ensemble=count, temperature=5.0)
        predictor = Predictor(rooms_bundle, CPU, 0)
        batch = protocol._open(config, protocol._modalities(config, predictor)).read(range(3))
        if count > 1:
            found: Tensor = protocol.predict(config, predictor, ["depth"], batch, 0)["depth"]
            return found
        modality = predictor.need("tok_depth", asked=True)
        given = predictor.give_image("rgb", batch["rgb"])
        step = protocol.Step(modality.name, "roar", 1, temperature=5.0)
        drawn = []
        for number in range(3):
            seeds = predictor.seeds(0, 3, f"answers {number}")
            generated = predictor.run([step], given, seeds)
            drawn.append(protocol.outputs.decode(predictor.bundle, modality.name, generated, seeds))
        return torch.stack(drawn).mean(0)

    assert torch.allclose(predicted(3), predicted(1), atol=1e-5)


def test_a_report_is_written(rooms_bundle: Any, rooms: Path, tmp_path: Path) -> None:
    config = settings(rooms, tmp_path, tasks=["depth"], num_samples=2, num_pictures=1)
    found = job.run(config, lambda path: rooms_bundle)
    assert json.loads((config.output / "metrics.json").read_bytes()) == found
    assert "out of the box" in (config.output / "report.html").read_text()


def test_images_of_captions_are_made_and_what_cannot_be_scored_is_said(
    rooms_bundle: Any, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no route to the hub")

    monkeypatch.setattr("torchmetrics.multimodal.clip_score.CLIPScore", offline)
    monkeypatch.setattr("torchmetrics.image.fid.FrechetInceptionDistance", offline)
    config = settings(rooms, tmp_path, tasks=["depth"], text_to_image={"num_steps": 2})
    outcome = measure(rooms_bundle, config)
    assert "caption_to_rgb" not in outcome.metrics
    assert set(outcome.missing) == {"fid", "clip_score"}
    assert "cannot be downloaded (no route to the hub)" in outcome.missing["clip_score"]


def test_weights_that_are_not_there_are_an_error(rooms_bundle: Any, rooms: Path, tmp_path: Path) -> None:
    config = settings(rooms, tmp_path, text_to_image={"clip": str(tmp_path / "clip")})
    with pytest.raises(ConfigError, match="there is nothing at .*clip"):
        measure(rooms_bundle, config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"given": "dinov2"}, ConfigError, "no input modality 'dinov2'"),
        ({"retrieval": {"feature": "tok_depth@64"}}, ConfigError, "does not decode to features"),
        ({"retrieval": {"feature": "tok_depth@64", "query": "rgb"}}, ConfigError, "also what is looked for"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    rooms_bundle: Any, rooms: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(rooms_bundle, settings(rooms, tmp_path, **changes))


def test_data_without_what_is_asked_for_is_refused(rooms_bundle: Any, rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        measure(rooms_bundle, settings(rooms / "nowhere", tmp_path, tasks=["depth"]))


def test_the_recipe_names_its_kind(tmp_path: Path) -> None:
    loaded = configs.load("answers", ["model=m", "data=d", "ensemble=10"])
    assert isinstance(loaded, AnswersEvaluation)
    assert loaded.ensemble == 10


# ------------------------------------------------------------ scores


def depths() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    truth = torch.tensor(rng.uniform(1, 9, (3, 1, 8, 8)))
    truth[:, :, :2] = 0  # unknown
    return truth * torch.tensor(rng.uniform(0.7, 1.4, truth.shape)) + 0.1, truth


@pytest.mark.parametrize("alignment", ["none", "median", "scale_shift"])
def test_depth_agrees_with_numpy(alignment: str) -> None:
    depth, truth = depths()
    score = DepthErrors(alignment)
    score.add(depth[:1], truth[:1])
    score.add(depth[1:], truth[1:])
    rows = []
    for d, t in zip(depth.numpy(), truth.numpy()):
        d, t = d[t > 0], t[t > 0]
        if alignment == "median":
            d = d * np.sort(t)[(len(t) - 1) // 2] / np.sort(d)[(len(d) - 1) // 2]
        if alignment == "scale_shift":
            slope, offset = np.polyfit(d, t, 1)
            d = slope * d + offset
        ratio = np.maximum(d / t, t / d)
        rows.append([np.mean(np.abs(d - t) / t), np.mean(ratio < 1.25), np.sqrt(np.mean((d - t) ** 2))])
    expected = np.mean(rows, 0)
    assert list(score.result().values()) == pytest.approx(list(expected), rel=1e-9)


def test_a_scale_does_not_matter_where_depth_is_aligned() -> None:
    depth, truth = depths()
    for alignment in ("median", "scale_shift"):
        one, other = DepthErrors(alignment), DepthErrors(alignment)
        one.add(depth, truth)
        other.add(depth * 7, truth)
        assert one.result() == pytest.approx(other.result())


def test_boxes_written_first_are_surer() -> None:
    right = {"boxes": [0.0, 0.0, 0.5, 0.5], "class_name": "cat"}

    def text(*lefts: int) -> str:
        return " ".join(f"v0={left} v1=0 v2={left + 50} v3=50 cat" for left in lefts)

    values = []
    for written in (text(0), text(0, 49), text(49, 0)):
        score = BoxScore(num_bins=101)
        score.add([written], [[right]])
        values.append(score.result()["box_ap50"])
    assert values == pytest.approx([1.0, 1.0, 0.5])


def test_boxes_without_any_truth_are_refused() -> None:
    score = BoxScore()
    score.add(["v0=0 v1=0 v2=50 v3=50 cat"], [[]])
    with pytest.raises(DataError, match="nothing to measure average precision on"):
        score.result()


def test_captions_are_compared_with_all_of_a_sample() -> None:
    def bleu(text: str, *references: str) -> float:
        score = CaptionScore()
        score.add([text], [list(references)])
        return score.result()["bleu4"]

    assert bleu("A red sofa in the room", "two chairs", "a red sofa in the room") == pytest.approx(1)
    assert bleu("two chairs", "a red sofa in the room") == 0
    # Five of six words, four of five pairs, three of four, two of three; no penalty, as no reference is longer.
    expected = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert bleu("a red sofa in the house", "a red sofa in the room") == pytest.approx(expected)
