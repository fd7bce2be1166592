"""The studies of AIM tell what their numbers say."""

from __future__ import annotations

import importlib
import json
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


def alike(prefix: Any, values: Any) -> dict[str, dict[str, float]]:
    """Twin and seed -> every measure has the same value."""
    keys = prefix.measured(prefix.FashionSetting().rows)
    return {name: dict.fromkeys(keys, value) for name, value in values.items()}


def test_means_spreads_and_differences_within_a_seed_are_told(script: Any) -> None:
    prefix = script("aim_prefix")
    found = alike(prefix, {"uniform 0": 0.80, "uniform 1": 0.70, "none 0": 0.78, "none 1": 0.66})
    lines = prefix.table(prefix.FashionSetting().rows, found, range(2)).splitlines()
    assert lines[0] == "| measured | read | with prefixes | causally | difference |"
    assert lines[2:4] == [
        f"| linear probe of the last block, % | {read} | 75.0 ± 7.1 | 72.0 ± 8.5 | +3.0 ± 1.4 |"
        for read in ("all see all", "causally")
    ]


def test_a_row_that_not_all_seeds_have_says_so_and_one_that_none_has_is_left_out(script: Any) -> None:
    prefix = script("aim_prefix")
    rows = prefix.FashionSetting().rows
    found = alike(prefix, {f"{name} {seed}": 0.5 for name in ("uniform", "none") for seed in range(3)})
    del found["none 2"]["early token"]
    del found["none 2"]["neighbours"], found["uniform 1"]["neighbours"]
    for measured in found.values():
        del measured["few"]
    titles = [line.split(" | ")[0].strip("| ") for line in prefix.table(rows, found, range(3)).splitlines()]
    assert titles.count("one early token, %, 2 seeds") == 1
    assert titles.count("nearest neighbours, %, 1 seed") == 1
    assert titles.count("one late token, %") == 2
    assert titles.count("linear probe fitted on 200, %") == 1  # read causally


def test_other_ways_of_training_are_compared_with_the_first_and_longer_training_with_the_second(script: Any) -> None:
    prefix = script("aim_prefix")
    found = alike(prefix, {"uniform 0": 3.0, "none 0": 2.0, "asked 0": 1.0, "twice 0": 6.0})
    head, _, *lines = prefix.table(prefix.FashionSetting().rows, found, range(1)).splitlines()
    assert head.endswith(
        "| with prefixes | causally | difference | causally, asked the same | difference "
        "| with prefixes, twice the steps | difference from causally |"
    )
    assert "| held-out loss | all see all | 3.0000 | 2.0000 | +1.0000 | 1.0000 | +2.0000 | 6.0000 | +4.0000 |" in lines


def test_what_a_causal_model_is_asked_alike_is_seen_by_it_causally(script: Any) -> None:
    prefix = script("aim_prefix")
    setting = prefix.changed(prefix.STUDIES["fine"].setting, ["patch_size=7", "lr=0.5"])
    assert (setting.lr, setting.patch_size, setting.depth) == (0.5, 7, 8)
    with pytest.raises(ValueError, match="lr: 3 is not KEY=VALUE"):
        prefix.changed(setting, ["lr: 3"])
    row = setting.objective("uniform").prepare({setting.modality.name: np.zeros((1, 28, 28), np.float32)}, generator(0))
    (causal,) = prefix.read_causally([row])
    assert causal.reach.tolist() == list(range(1, 16))
    assert causal.target_modality is row.target_modality
    assert np.shares_memory(causal.values[setting.modality.name], row.values[setting.modality.name])
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


def test_what_is_asked_of_a_patch_is_its_most_frequent_class_and_the_means_of_its_maps(script: Any) -> None:
    rooms = script("aim_rooms")
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, :4, 4:] = 5  # the second of four patches shows a picture,
    labels[0, 4:, :4][:3, :3] = 7  # the third one mostly a bed, and nothing else is large enough to count
    labels[0, 7, 7] = 9
    depth = torch.arange(64.0).view(1, 1, 8, 8)
    normals = torch.stack([labels == 5, labels == 0, labels < 0], 1).float()
    asked = rooms.answers(labels, depth, normals, 4)
    assert asked.label.tolist() == [[0, 5, 7, 0]]
    assert asked.depth.tolist() == [[[13.5], [17.5], [45.5], [49.5]]]
    assert asked.normal[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 7 / 16, 0], [0, 15 / 16, 0]]
    assert [rooms.ROOM_CLASSES[rooms.BUILDING + n] for n in asked.things[0].nonzero()] == ["picture"]


def test_patches_that_know_what_is_asked_answer_it_and_others_do_not(script: Any) -> None:
    rooms = script("aim_rooms")
    drawn = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (400, 4), generator=drawn)
    depth = torch.rand(400, 4, 1, generator=drawn)
    normal = torch.rand(400, 4, 3, generator=drawn)
    things = torch.rand(400, 5, generator=drawn) < 0.5
    asked = rooms.Answers(label, depth, normal, things)
    data = rooms.Rooms(torch.empty(0), asked, torch.empty(0), asked)
    known = torch.cat([F.one_hot(label, 4), depth, normal], -1)
    known[:, :2] = known[:, :2].roll(1, 0)  # early patches know another room's answers
    found = rooms.dense(rooms.Features(known, known), data)
    assert found["label"] == pytest.approx((found["early label"] + found["late label"]) / 2)
    assert found["late label"] == 1.0
    assert found["early label"] < 0.5
    assert found["late depth"] > 0.7 > 0.3 > found["early depth"]
    assert found["late normal"] > 0.7 > 0.3 > found["early normal"]
    assert rooms.explained(normal, normal) == 1.0
    assert rooms.explained(normal.mean(0).expand_as(normal), normal) == pytest.approx(0.0)

    told = things.float()[:, None].expand(-1, 4, -1)
    assert rooms.things(rooms.Features(told, told), data) == 1.0
    assert rooms.things(rooms.Features(told, told.roll(1, 0)), data) < 0.7


def test_a_run_on_rooms_tells_all_twins_and_goes_on_where_it_stopped(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, render = script("aim_prefix"), importlib.import_module("fourm.prepare.rooms.writer").render
    render(tmp_path / "train", num=8, size=64, seed=0, workers=1, progress=False)
    changes = ["steps=2", "batch=2", "dim=16", "depth=2", "num_heads=1", "num_train=8", "num_probe=6", "num_test=5"]
    words = ["aim_prefix", str(tmp_path / "out"), *changes, *["--setting", "rooms", "--seeds", "1", "--source"]]
    monkeypatch.setattr("sys.argv", [*words, str(tmp_path / "train")])
    prefix.main()
    first = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "aim_prefix.json").read_text())["models"]
    assert list(found) == ["uniform 0", "none 0", "asked 0", "twice 0"]
    rows = prefix.RoomsSetting(depth=2).rows
    for told in found.values():
        assert set(told) == set(prefix.measured(rows))
        assert np.isfinite(list(told.values())).all()
    assert len({told["loss"] for told in found.values()}) == 4
    assert prefix.table(rows, found, range(1)) in first
    monkeypatch.setattr(prefix, "pretrained", None)
    monkeypatch.setattr(prefix, "measure", None)
    prefix.main()
    assert capsys.readouterr().out == f"{prefix.table(rows, found, range(1))}\n"

    setting = prefix.changed(prefix.STUDIES["rooms"].setting, changes)
    data = setting.photographs(tmp_path / "train", tmp_path / "out")
    assert data.train.shape == (16, 3, 64, 64)
    assert torch.equal(data.train[8:], data.train[:8].flip(-1))
    assert (len(data.train_answers.label), len(data.test), len(data.test_answers.label)) == (8, 5, 5)


def known(script: Any) -> tuple[Any, Any, torch.Tensor]:
    """The probes, a hundred photographs in name only, and their ten classes."""
    study, labels = script("aim_probes"), torch.arange(100) % 10
    return study, study.Photographs(labels, labels, labels, labels), labels
