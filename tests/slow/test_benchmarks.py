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


@pytest.fixture
def aim_scaling(checkout: Path, monkeypatch: Any) -> Any:
    """`benchmarks/aim_scaling.py` with one size, its commands run in this process; gives the commands."""
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import aim_scaling  # type: ignore[import-not-found]

    from fourm.cli import main

    called = []

    def call(*words: object) -> None:
        called.append(words[0])
        main([*map(str, words), "train.device=cpu", "train.threads=1"])

    monkeypatch.setattr(aim_scaling.study, "fourm", call)
    monkeypatch.setattr(aim_scaling, "SIZES", {"small": {"dim": 16, "decoder_depth": 4, "num_heads": 1}})

    def run(*words: str) -> list[object]:
        called.clear()
        monkeypatch.setattr(sys, "argv", ["aim_scaling.py", *words])
        aim_scaling.main()
        return list(called)

    return run


def test_the_scaling_of_aim_is_measured_and_goes_on_where_it_was(aim_scaling: Any, tmp_path: Path) -> None:
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    from fourm.cli import main

    main(["prepare", "fashion", str(tmp_path / "data"), "--num-train", "64", "--num-test", "20"])
    words = [
        str(tmp_path),
        str(tmp_path / "out"),
        "--steps=8",
        "--points=2",
        "--batch=8",
        "--num-probe=64",
        "--probe-steps=20",
    ]

    assert aim_scaling(*words) == ["pretrain"]
    (found,) = json.loads((tmp_path / "out" / "aim_scaling.json").read_text())
    log = (tmp_path / "out" / "small" / "log.jsonl").read_bytes()
    aim_scaling(*words)

    assert (tmp_path / "out" / "small" / "log.jsonl").read_bytes() == log
    assert json.loads((tmp_path / "out" / "aim_scaling.json").read_text()) == [found]
    assert found["tokens"][-1] == 8 * 8 * 48
    assert found["probed_at"] == [4 * 8 * 48, 8 * 8 * 48]
    assert [len(found[kind]) for kind in ("attentive", "linear")] == [2, 2]
    assert (tmp_path / "out" / "probes.svg").read_text().startswith("<svg")


def test_steps_that_do_not_divide_are_refused(aim_scaling: Any, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        aim_scaling(str(tmp_path), str(tmp_path), "--steps", "10", "--points", "3")
    assert "--steps 10 is no multiple" in capsys.readouterr().err
