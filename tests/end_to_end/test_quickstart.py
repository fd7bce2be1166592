"""The shipped pipelines at small scale, through every stage; then the README's commands on the quick start's result."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fourm.paths import recipe_folder
from fourm.pipeline import Pipeline, Stage, load, run_pipeline
from fourm.pipeline.schema import command_words
from fourm.tokenizers.configs import QUANTIZERS
from tests.end_to_end.conftest import run
from tests.end_to_end.test_readme import TEST_BLOCKS, commands, small

pytestmark = pytest.mark.slow

ROOMS = {
    "rgb_to_depth": "abs_rel",
    "rgb_to_normal": "mean_angle",
    "rgb_to_semseg": "miou",
    "rgb_to_caption": "object_f1",
}


def start(pipeline: str, root: Path) -> subprocess.Popen[str]:
    """A small pipeline with its output in `root/outputs`."""
    return subprocess.Popen(
        [sys.executable, "-m", "fourm", "run", pipeline, "scale=small"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(recipe_folder().parent)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it wrote, once it has ended well."""
    _, written = process.communicate(timeout=1500)
    assert process.returncode == 0, written
    return written


class Reached(Exception):
    """A stage begins that is not to be run here."""


def prepare_here(root: Path, pipeline: str, until: str) -> None:
    """The stages of a small pipeline before this one, in this process: they spend most of their time on starting."""

    def run_commands(pipeline: Pipeline, stage: Stage, *rest: Any) -> None:
        if stage.name == until:
            raise Reached
        for command in stage.run:
            assert run(*command_words(command)[1:]) == 0, command

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("fourm.pipeline.run.run_commands", run_commands)
        with pytest.raises(Reached):
            run_pipeline(load(pipeline, ["scale=small"]))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `outputs/quickstart`; the run that trains is stopped while it does, and goes on in another."""
    root = tmp_path_factory.mktemp("quickstart")
    prepare_here(root, "quickstart", until="pretrain")
    first = start("quickstart", root)
    log = root / "outputs" / "quickstart" / "model" / "log.jsonl"
    while first.poll() is None and not log.is_file():
        time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=300)
    assert first.returncode == 128 + signal.SIGTERM
    assert not (root / "outputs" / "quickstart" / "metrics.json").exists()
    written = finish(start("quickstart", root))
    assert "tokenize: complete" in written
    return root


def test_results_are_reported_beside_their_baselines(quickstart: Path) -> None:
    output = quickstart / "outputs" / "quickstart"
    metrics = json.loads((output / "metrics.json").read_text())

    for task, metric in ROOMS.items():
        assert metrics[task][metric] >= 0
        assert metrics[task][f"baseline_{metric}"] > 0
        if task != "rgb_to_caption":
            assert metrics[task][f"linear_{metric}"] > 0
    report = (output / "report.html").read_text()
    assert "data:image/png;base64," in report
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_ways_to_decode_in_few_steps_are_compared(
    quickstart: Path, checkout: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(quickstart)
    tokenizer, data = "outputs/quickstart/tokenizers/rgb_divae/model", "outputs/quickstart/rooms/test"
    monkeypatch.setattr(sys, "argv", ["few_steps.py", tokenizer, data, "--num-samples", "6", "--batch", "4", "--json"])
    runpy.run_path(str(checkout / "benchmarks" / "few_steps.py"), run_name="__main__")
    rows = json.loads(capsys.readouterr().out)
    assert next(iter(rows)) == "ddim 50"
    assert rows["ddim 50"]["times_as_fast"] == 1
    for row in rows.values():
        assert row["seconds"] > 0
        assert 5 < row["psnr"] < 40
        assert row["another_seed"] > 0


def test_a_second_run_finds_everything_complete(quickstart: Path) -> None:
    report = quickstart / "outputs" / "quickstart" / "report.html"
    before = report.stat().st_mtime_ns

    written = finish(start("quickstart", quickstart))

    assert written.count(": complete (") == 7
    assert report.stat().st_mtime_ns == before


def test_commands_of_the_readme(quickstart: Path, monkeypatch: Any, fourm: Any) -> None:
    monkeypatch.chdir(quickstart)
    room = next((Path("outputs") / "quickstart" / "pictures").glob("*.png"))
    shutil.copy(room, "room.png")

    for words in [*commands("generate"), *commands("commands")]:
        outcome = fourm(*small(words))
        assert outcome.status == 0, f"{words}: {outcome.err}"

    for name in ("depth.png", "normal.png", "semseg.png", "caption.txt", "grid.png"):
        assert (Path("outputs") / "seen" / name).is_file()
    assert (Path("outputs") / "told" / "rgb.png").is_file()
    assert (Path("outputs") / "wider" / "model" / "config.json").is_file()


def test_python_of_the_readme(quickstart: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(quickstart)
    names: dict[str, Any] = {}

    exec(TEST_BLOCKS["python"], names)

    assert tuple(names["logits"].shape) == (1, 64, 512)


def run_here(root: Path, pipeline: str, *overrides: str) -> None:
    """All stages of a small pipeline in this process: so small ones spend most of their time on starting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        loaded = load(pipeline, ["scale=small", *overrides])
        for stage in loaded.stages:
            for command in stage.run:
                assert run(*command_words(command)[1:]) == 0, command
            assert all((loaded.output / name).exists() for name in stage.outputs), stage.name


def test_all_stages_of_vila_on_its_rooms_and_its_encoder(quickstart: Path, tmp_path: Path) -> None:
    brief = [f"variables.{stage}_steps=2" for stage in ("language", "projector", "documents", "chat")]
    made = f"variables.quickstart={quickstart}/outputs/quickstart"
    run_here(tmp_path, "vila", f"output={tmp_path}", made, *brief, "variables.num_questions=8")

    for name in ("questions", "text_questions"):
        kinds = json.loads((tmp_path / name / "metrics.json").read_text())
        assert kinds
        assert all(0 <= found["accuracy"] <= 1 for found in kinds.values())


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the small pipeline."""
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    root = tmp_path_factory.mktemp("fashion")
    run_here(root, "fashion")
    return root / "outputs" / "fashion"


def test_fashion(fashion: Path) -> None:
    metrics = json.loads((fashion / "metrics.json").read_text())
    assert 0 <= metrics["image_to_caption"]["accuracy"] <= 1
    assert {"accuracy", "upper_bound", "classifier_accuracy"} <= metrics["caption_to_image"].keys()
    assert {"psnr", "baseline_psnr"} <= metrics["half_to_whole"].keys()


@pytest.mark.parametrize(
    ("system", "captioned", "painted"),
    [
        (
            "emu",
            [f"judged/{name}" for name in ("emu_1", "emu_instruct", "emu2_2", "emu2_chat")],
            [f"judged/{name}" for name in ("emu_1", "emu2_2", "emu2_gen")],
        ),
        ("vl_gpt", ["captions"], ["captions"]),
    ],
)
def test_all_stages_of_a_system_on_that_encoder(
    fashion: Path, tmp_path: Path, system: str, captioned: list[str], painted: list[str]
) -> None:
    run_here(tmp_path, system, f"output={tmp_path}", f"variables.fashion={fashion}")

    for name in {*captioned, *painted}:
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert 0 <= metrics["image_to_caption"]["accuracy"] <= 1
        assert ("caption_to_image" in metrics) == (name in painted)


def test_a_tokenizer_of_every_family(tmp_path: Path) -> None:
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")

    run_here(tmp_path, "tokenizers", "variables.limit=train.max_steps=4")

    trained = tmp_path / "outputs" / "tokenizers" / "tokenizers"
    families = {folder.name: json.loads((folder / "model" / "config.json").read_text()) for folder in trained.iterdir()}
    assert {facts["kind"] for facts in families.values()} == {
        "vqvae",
        "divae",
        "vqcontrolnet",
    }  # the others have no codes
    assert {facts["config"]["quantizer"]["kind"] for facts in families.values()} == set(QUANTIZERS)
    for name in families:
        for scores in json.loads((trained / name / "evaluation" / "metrics.json").read_text()).values():
            assert 0 < scores["codes_used"] <= 1
