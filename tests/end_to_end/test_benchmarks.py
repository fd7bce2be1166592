"""The benchmarks of pretraining measure what they say: the reference is the same model, and figures are printed."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Benchmark = Callable[..., dict[str, float]]


@pytest.fixture
def benchmark(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """A function that runs a script of the folder, in this process, and gives its figures."""

    def run(script: str, *arguments: str) -> dict[str, float]:
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--json"])
        capsys.readouterr()
        runpy.run_path(str(checkout / "benchmarks" / script), run_name="__main__")
        found: dict[str, float] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.mark.slow
@pytest.mark.parametrize("modalities", ["4m7", "4m21"])
def test_the_reference_gives_the_same_losses(benchmark: Benchmark, modalities: str) -> None:
    options = ["--preset", "tiny", "--modalities", modalities, "--batch", "2", "--budget", "64"]
    assert benchmark("pretrain_step.py", *options, "--compare")["largest_difference"] < 1e-5


@pytest.mark.slow
def test_a_step_of_both_is_measured(benchmark: Benchmark) -> None:
    options = ["--batch", "2", "--budget", "32", "--steps", "2", "--warmup", "1"]
    for reference in ((), ("--reference",)):
        figures = benchmark("pretrain_step.py", *options, *reference)
        assert figures["seconds_per_step"] >= figures["seconds_forward_backward"] > 0
        assert figures["tokens_per_second"] > 0
        assert figures["peak_rss_gb"] > 0


@pytest.mark.slow
def test_the_data_pipeline_is_measured_on_shards_in_the_published_layout(benchmark: Benchmark, tmp_path: Path) -> None:
    options = ["--modalities", "rgb,tok_rgb,caption,det", "--budget", "64", "--seconds", "0.5"]
    made = benchmark("data_pipeline.py", str(tmp_path), *options, "--make", "64")
    assert made["samples_per_second"] > 0
    assert benchmark("data_pipeline.py", str(tmp_path), *options)["samples"] > 0


@pytest.mark.parametrize("budget", [32, 128])
def test_the_share_of_padding_is_measured(benchmark: Benchmark, budget: int) -> None:
    budgets = (f"objective.num_input_tokens={budget}", f"objective.num_target_tokens={budget}")
    found = benchmark("padding.py", "4m_b", "--batch", "32", "--samples", "64", *budgets)
    for side in ("input", "target"):
        assert 0 <= found[f"{side}_left_out"] <= found[f"{side}_padding"] < 0.5
        assert found[f"{side}_padding"] > 0.02
    # A larger table is harder to fill, from the same samples.
    assert (found["input_padding"] > 0.12) == (budget == 128)


def test_the_page_of_the_scaling_study_is_written_from_its_numbers(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    study = importlib.import_module("scaling")
    runs = [
        {
            "model": model, "trunk_parameters": 1000 * (1 + i), "rooms": rooms, "seed": seed,
            "tokens": [1000.0, 2000.0], "held_out_loss": [6.0, 5.0 - i - 0.1 * k + 0.01 * seed],
        }
        for i, model in enumerate(study.MODELS)
        for k, rooms in enumerate(study.ROOMS)
        for seed in study.SEEDS
    ]  # fmt: skip
    results = {"steps": 10, "batch": 4, "held_out_rooms": 8, "runs": runs}
    study.write_docs(results, tmp_path)
    page = (tmp_path / "docs" / "scaling.md").read_text()
    assert "| large, 64 wide | 3,000 | 3.010 ± 0.010 | 2.910 ± 0.010 | 2.810 ± 0.010 |" in page
    assert "falls in 6 of 6 steps to a larger model and in 6 of 6 steps to more rooms, that of a single seed " in page
    assert "in 18 of 18 and in 18 of 18.\n" in page
    for name in re.findall(r"pictures/(\S+\.svg)", page):
        assert (tmp_path / "docs" / "pictures" / name).read_text().startswith("<svg")
    assert json.loads((tmp_path / "benchmarks" / "results" / "scaling.json").read_text()) == results
    runs[0]["held_out_loss"][-1] = 0.0
    read = study.reading(results)
    assert (
        "in 5 of 6 steps to a larger model and in 5 of 6 steps to more rooms, that of a single seed in 17 of 18" in read
    )
    assert (
        "does not from small on 80 rooms to middle on 80 rooms, nor from small on 80 rooms to small on 160 rooms."
        in read
    )
