from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fourm import catalog
from fourm.errors import ConfigError
from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.predict import Predictor
from fourm.evaluate.references import References
from fourm.evaluate.rooms import RoomScores, evaluate_rooms, from_rgb, raw_modalities
from fourm.evaluate.samples import Samples


@pytest.fixture
def config(rooms: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        "rooms",
        Path("model"),
        rooms / "test",
        rooms / "train",
        tmp_path / "out",
        batch_size=2,
        num_pictures=3,
        num_steps=2,
    )


@pytest.mark.usefixtures("known_references")
def test_every_task_has_its_baselines(config: EvaluateConfig, rooms_bundle: Any) -> None:
    outcome = evaluate_rooms(config, Predictor(rooms_bundle, torch.device("cpu")))
    keys = {task: set(values) for task, values in outcome.metrics.items()}
    assert keys["rgb_to_depth"] == {"abs_rel", "baseline_abs_rel", "linear_abs_rel"}
    assert keys["rgb_to_normal"] == {"mean_angle", "baseline_mean_angle", "linear_mean_angle"}
    assert keys["rgb_to_semseg"] == {"miou", "baseline_miou", "linear_miou"}
    assert keys["rgb_to_caption"] == {"object_f1", "baseline_object_f1", "direct_object_f1"}
    assert keys["rgb_to_canny"] == {"psnr", "baseline_psnr"}
    assert [len(table.cells) for table in outcome.tables] == [3, 3]
    assert all(len(row) == len(table.columns) for table in outcome.tables for row in table.cells)


@pytest.mark.usefixtures("known_references")
def test_numbers_do_not_depend_on_the_batch_size(config: EvaluateConfig, rooms_bundle: Any) -> None:
    predictor = Predictor(rooms_bundle, torch.device("cpu"))
    first = evaluate_rooms(config, predictor).metrics
    config.batch_size = 5
    second = evaluate_rooms(config, predictor).metrics
    for task, values in first.items():
        assert second[task] == pytest.approx(values, rel=1e-4), task


def test_the_truth_itself_gets_perfect_scores(
    config: EvaluateConfig, rooms_bundle: Any, references: References
) -> None:
    predictor = Predictor(rooms_bundle, torch.device("cpu"))
    raw = raw_modalities(predictor)
    scores = RoomScores(config, references, predictor, catalog.ROOM_CLASSES)
    batch = Samples(config.test, raw).read(range(5))
    names = [", ".join(sorted({i["class_name"] for i in one})) for one in batch["det"]]
    dense = {key: batch[key] for key in ("depth", "normal", "semseg", "canny")}
    scores.add(batch, {**dense, "caption": [one[0] for one in batch["caption"]], "det": names})
    found = scores.metrics()
    assert found["rgb_to_depth"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert found["rgb_to_normal"]["mean_angle"] == pytest.approx(0, abs=1e-3)
    assert (
        found["rgb_to_semseg"]["miou"] == found["rgb_to_caption"]["object_f1"] == found["rgb_to_det"]["object_f1"] == 1
    )
    assert found["rgb_to_caption"]["baseline_object_f1"] == pytest.approx(2 * 7 / (15 + 7))


def test_texts_are_written_with_the_predicted_labels_in_view(
    config: EvaluateConfig, rooms_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(rooms_bundle, torch.device("cpu"))
    seen: list[set[str]] = []
    run = predictor.run
    monkeypatch.setattr(
        predictor, "run", lambda steps, given, seeds: seen.append(set(given)) or run(steps, given, seeds)
    )
    answers = from_rgb(predictor, torch.rand(2, 3, 64, 64), 0, config)
    assert seen == [{"rgb@64"}, {"rgb@64", "tok_semseg@64"}]
    assert {"caption", "direct_caption", "det", "direct_det"} <= set(answers)


def test_without_text_context_texts_see_rgb_alone(config: EvaluateConfig, rooms_bundle: Any) -> None:
    config.text_context = []
    answers = from_rgb(Predictor(rooms_bundle, torch.device("cpu")), torch.rand(2, 3, 64, 64), 0, config)
    assert "caption" in answers
    assert "direct_caption" not in answers


def test_a_model_that_reads_no_rgb_is_refused(config: EvaluateConfig, fashion_bundle: Any) -> None:
    with pytest.raises(ConfigError, match="no input modality 'rgb'"):
        evaluate_rooms(config, Predictor(fashion_bundle, torch.device("cpu")))


@pytest.mark.usefixtures("known_references")
def test_decoders_of_the_same_images_are_compared(config: EvaluateConfig, rooms_bundle: Any, tmp_path: Path) -> None:
    rooms_bundle.tokenizers["tok_rgb@64"].save(tmp_path / "one")
    config.decoders = {"one": tmp_path / "one", "other": tmp_path / "one"}
    outcome = evaluate_rooms(config, Predictor(rooms_bundle, torch.device("cpu")))
    assert outcome.metrics["rgb_by_one"]["psnr"] == outcome.metrics["rgb_by_other"]["psnr"]
    table = outcome.tables[-1]
    assert table.columns == ["original", "one", "other"]
    assert len(table.cells) == 3


@pytest.mark.usefixtures("known_references")
def test_decoders_of_different_modalities_are_refused(
    config: EvaluateConfig, rooms_bundle: Any, tmp_path: Path
) -> None:
    for key in ("rgb", "depth"):
        rooms_bundle.tokenizers[f"tok_{key}@64"].save(tmp_path / key)
    config.decoders = {key: tmp_path / key for key in ("rgb", "depth")}
    with pytest.raises(ConfigError, match=r"decoders are of depth@64, rgb@64"):
        evaluate_rooms(config, Predictor(rooms_bundle, torch.device("cpu")))
