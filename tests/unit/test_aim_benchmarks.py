"""The studies of AIM tell what their numbers say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fourm.rng import generator


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
        f"{name} {seed}": dict.fromkeys(prefix.MEASURED, value)
        for name, values in {"uniform": (0.80, 0.70), "none": (0.78, 0.66)}.items()
        for seed, value in enumerate(values)
    }
    lines = prefix.table(found, range(2)).splitlines()
    assert lines[0] == "| measured | read | with prefixes | causally | difference |"
    assert lines[2:4] == [
        f"| linear probe of the last block, % | {read} | 75.0 ± 7.1 | 72.0 ± 8.5 | +3.0 ± 1.4 |"
        for read in ("all see all", "causally")
    ]


def test_a_row_that_not_all_seeds_have_says_so_and_one_that_none_has_is_left_out(script: Any) -> None:
    prefix = script("aim_prefix")
    found = {f"{name} {seed}": dict.fromkeys(prefix.MEASURED, 0.5) for name in prefix.PREFIXES for seed in range(3)}
    del found["none 2"]["early token"]
    for told in found.values():
        del told["few"]
    titles = [line.split(" | ")[0].strip("| ") for line in prefix.table(found, range(3)).splitlines()]
    assert titles.count("one early token, %, 2 seeds") == 1
    assert titles.count("one late token, %") == 2
    assert titles.count("linear probe fitted on 200, %") == 1  # read causally


def test_a_third_way_of_training_is_compared_with_the_first(script: Any) -> None:
    prefix = script("aim_prefix")
    found = {f"{name} 0": dict.fromkeys(prefix.MEASURED, v) for name, v in zip(("uniform", "none", "asked"), (3, 2, 1))}
    (told,) = [line for line in prefix.table(found, range(1)).splitlines() if "held-out loss | all" in line]
    assert told == "| held-out loss | all see all | 3.0000 | 2.0000 | +1.0000 | 1.0000 | +2.0000 |"


def test_what_a_causal_model_is_asked_alike_is_seen_by_it_causally(script: Any) -> None:
    prefix = script("aim_prefix")
    setting = prefix.changed(prefix.SETTINGS["fine"], ["patch_size=7", "lr=0.5"])
    assert (setting.lr, setting.patch_size, setting.depth) == (0.5, 7, 8)
    with pytest.raises(ValueError, match="lr: 3 is not KEY=VALUE"):
        prefix.changed(setting, ["lr: 3"])
    row = setting.objective("uniform").prepare({prefix.NAME: np.zeros((1, 28, 28), np.float32)}, generator(0))
    (causal,) = prefix.read_causally([row])
    assert causal.reach.tolist() == list(range(1, 16))
    assert causal.target_modality is row.target_modality
    assert np.shares_memory(causal.values[prefix.NAME], row.values[prefix.NAME])
    assert (row.reach > causal.reach).any()


def test_the_first_tokens_and_the_last_ones_are_probed_alone(script: Any) -> None:
    study, photographs, labels = known(script)
    # The last two of four tokens know the class.
    told = F.one_hot(labels, 10).float()[:, None].expand(-1, 4, -1) * torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None]
    assert study.single(study.Features(told, told), photographs) == {"early": pytest.approx(0.1), "late": 1.0}


def test_a_few_photographs_and_neighbours_find_classes_that_lie_apart(script: Any) -> None:
    study, photographs, labels = known(script)
    apart = F.one_hot(labels, 10).float()[:, None]
    assert study.neighbours(study.Features(apart, apart), photographs, 5) == 1.0
    assert study.neighbours(study.Features(apart, apart.roll(1, 0)), photographs, 5) == 0.0
    # Ten of a hundred photographs show some of the ten classes, a hundred all of them.
    assert 0.4 < study.few(study.Features(apart, apart), photographs, 10) < 0.9
    assert study.few(study.Features(apart, apart), photographs, 100) == 1.0


def known(script: Any) -> tuple[Any, Any, torch.Tensor]:
    """The probes, a hundred photographs in name only, and their ten classes."""
    study, labels = script("aim_probes"), torch.arange(100) % 10
    return study, study.Photographs(labels, labels, labels, labels), labels
