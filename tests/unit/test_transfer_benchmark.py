"""The study of transfer goes on where it was stopped, tries again what failed, and writes its tables into the docs."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

TRAIN = """
import json, pathlib, sys
output, miou = pathlib.Path(sys.argv[1]), float(sys.argv[2])
if miou < 0:
    sys.exit("out of memory")
output.mkdir(parents=True, exist_ok=True)
(output / "completed.json").write_text(json.dumps({"metrics": {"loss": 1.0, "miou": miou}}))
"""
PAGE = "# Results\n\n<!-- results of benchmarks/transfer.py -->\nold\n<!-- end of results -->\n\nThe end.\n"


@pytest.fixture
def transfer(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import transfer  # type: ignore[import-not-found]

    return transfer


@pytest.fixture
def study(transfer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the script on two runs of a mock command; gives what was started."""

    def call(*words: str, values: dict[str, float]) -> list[str]:
        started = []

        def command(run: Any, seed: int, options: Namespace, output: Path) -> list[str]:
            started.append(f"{run.name} {seed}")
            return [sys.executable, "-c", TRAIN, str(output), str(values[run.name.split("/")[-1]] + seed / 100)]

        (tmp_path / "page.md").write_text(PAGE)
        monkeypatch.setattr(transfer, "command", command)
        monkeypatch.setattr(transfer, "prepare", lambda options: None)
        places = [f"--{name}={tmp_path / path}" for name, path in (("work", "w"), ("results", "r/t.json"))]
        only = ["--only=rooms/semseg/", f"--docs={tmp_path / 'page.md'}"]
        monkeypatch.setattr(sys, "argv", ["transfer.py", *places, *only, *words])
        transfer.main()
        return started

    return call


def test_runs_that_are_there_are_not_done_again(study: Any, tmp_path: Path) -> None:
    values = {"pretrained": 0.5, "scratch": 0.25}
    assert sorted(study("--seeds=0", values=values)) == ["rooms/semseg/pretrained 0", "rooms/semseg/scratch 0"]
    assert sorted(study("--seeds=0,2", "--jobs=2", values=values)) == [
        "rooms/semseg/pretrained 2", "rooms/semseg/scratch 2",
    ]  # fmt: skip

    found = json.loads((tmp_path / "r" / "t.json").read_text())
    assert found["rooms/semseg/scratch"]["2"]["metrics"]["miou"] == pytest.approx(0.27)
    page = (tmp_path / "page.md").read_text()
    assert "| segmentation | mIoU, % | 51.0 \u00b1 1.4 | 26.0 \u00b1 1.4 | 2 of 2 seeds |" in page
    assert "old" not in page
    assert page.endswith("<!-- end of results -->\n\nThe end.\n")


def test_a_run_that_fails_does_not_keep_others_from_being_done(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1 runs failed"):
        study("--seeds=0", values={"pretrained": -1.0, "scratch": 0.25})

    assert list(json.loads((tmp_path / "r" / "t.json").read_text())) == ["rooms/semseg/scratch"]
    assert "rooms/semseg/pretrained, seed 0: ended with status 1" in capsys.readouterr().err
    assert "out of memory" in (tmp_path / "w" / "runs" / "rooms" / "semseg" / "pretrained" / "0.log").read_text()
    assert study("--seeds=0", values={"pretrained": 0.5, "scratch": 0.0}) == ["rooms/semseg/pretrained 0"]


def test_what_draws_nothing_is_done_once(transfer: Any) -> None:
    runs = [transfer.Run("a/b/drawn", "fashion"), transfer.Run("a/b/nearest", "knn fashion", seeded=False)]
    options = Namespace(seeds="1,2")

    def missing(**results: Any) -> list[tuple[str, int]]:
        found = transfer.Study(options, {f"a/b/{name}": seeds for name, seeds in results.items()}).missing(runs)
        return [(run.name.split("/")[-1], seed) for run, seed in found]

    assert missing() == [("drawn", 1), ("nearest", 1), ("drawn", 2)]
    assert missing(drawn={"2": {}}, nearest={"0": {}}) == [("drawn", 1)]


def test_every_run_names_a_recipe_that_is_shipped(transfer: Any, checkout: Path) -> None:
    for run in transfer.runs():
        assert (checkout / "cfgs" / "finetune" / f"{run.recipe.removeprefix('knn ')}.yaml").is_file()


def test_a_page_without_marks_is_told(transfer: Any, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Results")
    with pytest.raises(ValueError, match="has no lines"):
        transfer.write_part(tmp_path / "page.md", "transfer.py", "")
