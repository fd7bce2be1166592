"""Benchmarks run as they stand, on the smallest of what they measure."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def generate(checkout: Path, monkeypatch: Any) -> Any:
    """`benchmarks/generate.py` with these arguments."""

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["generate.py", *words])
        runpy.run_path(str(checkout / "benchmarks" / "generate.py"), run_name="__main__")

    return call


@pytest.mark.parametrize(
    ("words", "num_tokens"),
    [(["--tokens", "2"], 2), (["--task", "chain", "--steps", "1,1,1,1,1"], 5 * 196)],
    ids=["caption", "chain"],
)
def test_a_benchmark_of_generation_tells_its_figures(
    generate: Any, capsys: Any, words: list[str], num_tokens: int
) -> None:
    generate(*words, "--repeats", "1", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"seconds", "tokens_per_second", "peak_rss_gb"}
    assert figures["tokens_per_second"] == pytest.approx(num_tokens / figures["seconds"], rel=0.02, abs=0.06)  # rounded
    assert 0.1 < figures["peak_rss_gb"] < 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "300"], "--tokens is 300; a caption holds 1 to 256"),
        (["--tokens", "0"], "--tokens is 0; a caption holds 1 to 256"),
        (["--steps", "1,1"], "--steps takes 5 numbers"),
    ],
)
def test_a_benchmark_that_cannot_be_run_says_why_at_once(
    generate: Any, capsys: Any, words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        generate(*words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
