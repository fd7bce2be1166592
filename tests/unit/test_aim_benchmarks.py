"""The studies of AIM tell what their numbers say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F


@pytest.fixture
def script(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of benchmarks by name."""
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module


def row(size: str, loss: float, attentive: list[float], linear: list[float]) -> dict[str, Any]:
    return {
        "size": size, "dim": 32, "trunk_parameters": 38_000, "tokens": [10.0, 20.0], "held_out_loss": [1.0, loss],
        "probed_at": [10.0, 20.0], "attentive": attentive, "linear": linear,
    }  # fmt: skip


def test_a_size_that_is_not_better_and_a_probe_that_is_not_ahead_are_told(script: Any) -> None:
    scaling = script("aim_scaling")
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


def test_curves_are_drawn_of_all_sizes_and_probes(script: Any) -> None:
    scaling = script("aim_scaling")
    drawn = scaling.pictures([row("small", 0.5, [0.6, 0.7], [0.5, 0.6])])
    assert "small, 38 k" in drawn["loss"]
    assert "small, attentive" in drawn["probes"]
    assert "small, linear" in drawn["probes"]


def test_means_spreads_and_differences_within_a_seed_are_told(script: Any) -> None:
    prefix = script("aim_prefix")
    found = {
        f"{name} {seed}": dict.fromkeys(prefix.COLUMNS, value)
        for name, values in {"uniform": (0.80, 0.70), "none": (0.78, 0.66)}.items()
        for seed, value in enumerate(values)
    }
    told = prefix.table(found, range(2))
    assert [[cell.strip() for cell in line.split("|")][1:3] for line in told.splitlines()[2:]] == [
        ["with prefixes", "75.0 ± 7.1"],
        ["causally", "72.0 ± 8.5"],
        ["difference", "+3.0 ± 1.4"],
    ]


def test_a_column_that_not_all_seeds_have_says_so(script: Any) -> None:
    prefix = script("aim_prefix")
    found = {f"{name} {seed}": dict.fromkeys(prefix.COLUMNS, 0.5) for name in prefix.PREFIXES for seed in range(3)}
    del found["none 2"]["early token"]
    head = prefix.table(found, range(3)).splitlines()[0]
    assert "| one early token, %, 2 seeds | one late token, % |" in head


def test_the_first_tokens_and_the_last_ones_are_probed_alone(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study = script("aim_probes")
    labels = torch.arange(100) % 10
    photographs = study.Photographs(labels, labels, labels, labels)

    def tokens(model: None, images: torch.Tensor, layers: list[int], causal: bool) -> torch.Tensor:
        """Stands for a trunk of which the last two of four tokens know the class."""
        known = F.one_hot(images, 10).float()[:, None].expand(-1, 4, -1)
        return known * torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None]

    monkeypatch.setattr(study, "tokens", tokens)
    assert study.single(None, photographs, [0]) == {"early": pytest.approx(0.1), "late": 1.0}
