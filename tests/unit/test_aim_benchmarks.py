"""The studies of AIM tell what their numbers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def scaling(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import aim_scaling  # type: ignore[import-not-found]

    return aim_scaling


@pytest.fixture
def prefix(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import aim_prefix  # type: ignore[import-not-found]

    return aim_prefix


def row(size: str, loss: float, attentive: list[float], linear: list[float]) -> dict[str, Any]:
    return {
        "size": size, "dim": 32, "trunk_parameters": 38_000, "tokens": [10.0, 20.0], "held_out_loss": [1.0, loss],
        "probed_at": [10.0, 20.0], "attentive": attentive, "linear": linear,
    }  # fmt: skip


def test_a_size_that_is_not_better_and_a_probe_that_is_not_ahead_are_told(scaling: Any) -> None:
    results = [
        row("small", 0.5, [0.6, 0.70], [0.5, 0.6]),
        row("middle", 0.4, [0.6, 0.75], [0.5, 0.6]),
        row("large", 0.45, [0.6, 0.80], [0.65, 0.7]),
    ]
    assert "| large, 32 wide | 38,000 | 0.4500 | 80.0 | 70.0 |" in scaling.table(results)
    assert scaling.reading(results) == (
        "From one size to the next, the loss falls in 1 of 2 steps; the accuracy rises in 2 for the attentive probe "
        "and in 1 for the linear probe. The attentive probe reads more than the linear one from 5 of 6 checkpoints."
    )


def test_curves_are_drawn_of_all_sizes_and_probes(scaling: Any) -> None:
    drawn = scaling.pictures([row("small", 0.5, [0.6, 0.7], [0.5, 0.6])])
    assert "small, 38 k" in drawn["loss"]
    assert "small, attentive" in drawn["probes"]
    assert "small, linear" in drawn["probes"]


def test_means_spreads_and_differences_within_a_seed_are_told(prefix: Any) -> None:
    found = {
        f"{name} {seed}": dict.fromkeys(prefix.COLUMNS, value)
        for name, values in {"uniform": (0.80, 0.70), "none": (0.78, 0.66)}.items()
        for seed, value in enumerate(values)
    }
    cells = [[cell.strip() for cell in line.split("|")] for line in prefix.table(found, range(2)).splitlines()]
    assert [line[1:3] for line in cells[2:]] == [
        ["with prefixes", "75.0 ± 7.1"],
        ["causally", "72.0 ± 8.5"],
        ["difference", "+3.0 ± 1.4"],
    ]
