"""Logs of runs, and how they are drawn in a terminal and on a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fourm.errors import ConfigError
from fourm.report.braille import plot, sparkline
from fourm.report.curves import page_of
from fourm.report.runs import load_runs, numbers_of
from fourm.report.terminal import drawn


def write_run(folder: Path, losses: list[float], *more: dict[str, Any], complete: bool = False) -> Path:
    folder.mkdir(parents=True)
    facts = {"lr": 1e-3, "tokens_per_second": 1000.0, "samples_per_second": 4.0, "mfu": 0.4, "data_wait": 0.01}
    records: list[dict[str, Any]] = [
        {"kind": "train", "step": n, "tokens": 100 * n, "loss": loss, "loss/depth": 2 * loss, **facts}
        for n, loss in enumerate(losses, start=1)
    ]
    lines = [json.dumps(record) for record in [*records, *more]]
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"kind": "tra']))
    if complete:
        (folder / "completed.json").write_text("{}")
    return folder


def shown(*places: Path, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(drawn(load_runs(places), width))
    return console.export_text()


def test_a_log_that_was_cut_short_gives_its_whole_lines(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "a", [3.0, 2.0])])
    assert run.series("train", "loss") == ([1.0, 2.0], [3.0, 2.0])
    assert run.last()["step"] == 2
    assert run.last("eval") == {}


def test_runs_are_found_in_folders_of_runs_and_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for place in ("one/model", "two/model"):
        write_run(tmp_path / place, [1.0])
    assert [run.name for run in load_runs([tmp_path / "one", tmp_path / "two"])] == ["one/model", "two/model"]
    assert [run.name for run in load_runs([tmp_path / "one" / "model"])] == ["model"]
    assert len(load_runs([tmp_path, tmp_path / "one" / "model" / "log.jsonl"])) == 2


def test_a_run_that_is_named_twice_is_shown_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", [1.0])
    (tmp_path / "link").symlink_to(folder)
    assert len(load_runs([folder, folder / ".." / "one", tmp_path / "link"])) == 1


def test_two_logs_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", [1.0])
    (folder / "before.jsonl").write_text((folder / "log.jsonl").read_text())
    assert [run.name for run in load_runs([folder, folder / "before.jsonl"])] == ["one", "before.jsonl"]


def test_a_complete_run_that_goes_on_to_a_later_end_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [3.0, 2.0, 1.0])
    (folder / "completed.json").write_text('{"step": 3}')
    assert load_runs([folder])[0].state() == "complete"
    (folder / "completed.json").write_text('{"step": 2}')
    assert load_runs([folder])[0].state() == "running"


def test_records_of_other_forms_are_shown_without_what_is_no_number(tmp_path: Path) -> None:
    odd = {"kind": "train", "step": 3, "tokens": None, "loss": "high", "lr": [1]}
    folder = write_run(tmp_path / "a", [3.0, 2.0], odd)
    assert "running" in shown(folder)
    page_of(load_runs([folder]))


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no log\.jsonl"):
        load_runs([tmp_path])


def test_the_state_of_a_run_is_told(tmp_path: Path) -> None:
    end = {"kind": "end", "step": 2, "error": "TrainingError", "reason": "the loss is nan"}
    runs = load_runs(
        [
            write_run(tmp_path / "done", [1.0], complete=True),
            write_run(tmp_path / "failed", [1.0, 2.0], end),
            write_run(tmp_path / "going", [1.0]),
        ]
    )
    assert [run.state() for run in runs] == ["complete", "ended at step 2: TrainingError: the loss is nan", "running"]
    assert runs[2].state(runs[2].changed + 3600) == "silent for 60 minutes"


def test_numbers_that_are_null_are_left_out(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "a", [3.0], {"kind": "train", "step": 2, "loss": None, "extra": 1.0})])
    assert run.series("train", "loss") == ([1.0], [3.0])
    assert "extra" in numbers_of([run], "train")


def test_a_terminal_shows_figures_curves_and_modalities_of_all_runs(tmp_path: Path) -> None:
    a = write_run(tmp_path / "first", [4.0, 3.0, 2.5], {"kind": "eval", "step": 1, "loss": 5.0})
    text = shown(a, write_run(tmp_path / "second", [4.0, 2.0], complete=True))

    assert "first" in text
    assert "complete" in text
    assert "40.0%" in text  # of the peak
    assert "training loss" in text
    assert "depth" in text
    assert any(0x2800 < ord(letter) < 0x2900 for letter in text)
    assert "4" in text


def test_a_run_that_has_just_begun_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "log.jsonl").write_text("")
    assert "new" in shown(tmp_path / "new")


def test_a_page_holds_every_number_and_needs_nothing_else(tmp_path: Path) -> None:
    a = write_run(tmp_path / "first", [4.0, 3.0], {"kind": "eval", "step": 2, "loss": 5.0, "fid": 3.0})
    page = page_of(load_runs([a, write_run(tmp_path / "second", [4.0, 2.0])])).save(tmp_path / "page.html")
    text = page.read_text()

    for word in ("first", "second", "depth, training", "held out, loss", "model FLOPs utilisation", "fid"):
        assert word in text
    assert "http" not in text
    assert "<script" not in text


# ------------------------------------------------------------------ curves of dots


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right() -> None:
    lines, borders = plot([([0, 10], [5.0, 1.0])], width=8, height=4)
    assert borders == (0.0, 10.0, 1.0, 5.0)
    assert (lines[0][0][1], lines[-1][-1][1]) == (0, 0)
    assert (lines[0][-1], lines[-1][0]) == ((" ", -1), (" ", -1))


def test_later_curves_are_on_top_and_gaps_are_left_out() -> None:
    lines, _ = plot([([0, 1, 2], [0.0, float("nan"), 1.0]), ([0, 2], [0.0, 1.0])], width=4, height=2)
    assert {owner for line in lines for _, owner in line} == {-1, 1}


@pytest.mark.parametrize("curve", [([], []), ([1.0], [2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_too_few_points_and_flat_lines_are_drawn(curve: Any) -> None:
    lines, borders = plot([curve], width=5, height=3)
    assert len(lines) == 3
    assert np.isfinite(borders).all()


def test_a_sparkline_is_as_wide_as_it_may_be() -> None:
    assert sparkline([1.0, 2.0, 3.0], 8) == "▁▄█"
    assert len(sparkline(list(range(100)), 8)) == 8
    assert sparkline([float("nan")], 8) == ""
    assert set(sparkline([2.0, 2.0], 8)) == {"▄"}
