from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.outcome import Outcome, PictureTable
from fourm.evaluate.page import build_page, duration, learning_curves, read_log, read_stages


def records(count: int) -> list[dict[str, Any]]:
    return [{"kind": "train", "step": n, "loss": 1 / (n + 1), "loss/a": 1.0, "loss/b": 2.0} for n in range(count)]


def test_page_shows_metrics_pictures_curves_and_times(tmp_path: Path, rooms_bundle: Any) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records(5)) + '{"kind": "tr')
    (tmp_path / "stages.json").write_text('{"pretrain": 75.2}')
    config = EvaluateConfig(
        "rooms", tmp_path, tmp_path, tmp_path, tmp_path, logs={"the model": log}, stages=tmp_path / "stages.json"
    )
    table = PictureTable(
        "x", "Pictures", "A note.", ["RGB (given)", "segmentation"], [[Image.new("RGB", (4, 4)), "text"]]
    )
    metrics = {"rgb_to_depth": {"abs_rel": 0.1, "baseline_abs_rel": 0.2, "linear_abs_rel": 0.05}}
    page = build_page(config, rooms_bundle, Outcome(metrics, [table], {"rooms": "5"}, ("floor", "wall")), 3.0).render()
    assert "better than every baseline in 0 of 1 tasks" in page
    assert "1 min 15 s" in page
    assert "<svg" in page
    assert "Pictures" in page
    assert "wall" in page
    assert "width 16, 2 heads" in page


def test_a_run_has_one_chart_for_its_loss_and_one_for_its_parts() -> None:
    assert len(learning_curves("run", records(5))) == 2
    assert learning_curves("run", []) == []


def test_missing_files_leave_their_part_out(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none") == []
    assert read_stages(tmp_path / "none") == {}


def test_durations_read_naturally() -> None:
    assert (duration(59.6), duration(12)) == ("1 min 0 s", "12 s")
