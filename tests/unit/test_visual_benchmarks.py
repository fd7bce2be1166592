"""The studies of LVM and DeLVM read sentences as they were written, and say what their figures say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.data.documents import DocumentWriter
from fourm.prepare.sentences.recipe import SentencesRecipe


@pytest.fixture
def script(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of benchmarks by name."""
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module


def test_documents_are_cut_into_examples_and_a_question(script: Any, tmp_path: Path) -> None:
    study = script("lvm_shots")
    with DocumentWriter(tmp_path / "depth" / "part-00000.bin") as writer:
        for length in (5, 4, 1):  # pairs
            writer.write(np.arange(2 * length * study.IMAGE))
    found = study.pairs_of(tmp_path / "depth", 2)
    assert found.shape == (4, 4, study.IMAGE)  # two of the first document, two of the second
    assert found[1].flatten().tolist() == list(range(4 * study.IMAGE, 8 * study.IMAGE))


def test_the_sizes_of_lvm_are_told_as_they_are(script: Any) -> None:
    study = script("lvm_scaling")
    results = [
        {
            "size": size, "dim": 32, "trunk_parameters": 1000 * (1 + i), "tokens": [10.0, 20.0],
            "held_out_loss": [5.0, 4.0 - i], "prompted_at": [20.0],
            "perplexity": {"0": [9.0], "1": [8.0], "3": [7.0 + i]},
        }
        for i, size in enumerate(study.SIZES)
    ]  # fmt: skip
    assert "| middle, 32 wide | 2,000 | 3.000 | 9.0 | 8.0 | 8.0 |" in study.table(results)
    assert "the loss falls in 2 of 2 steps and the perplexity behind 3 examples in 0" in study.reading(results)
    assert "below the one without examples for 2 of 3 models" in study.reading(results)
    assert all(picture.startswith("<svg") for picture in study.pictures(results).values())


def test_examples_that_help_in_some_tasks_only_are_told(script: Any) -> None:
    study = script("lvm_shots")
    found = {task: {0: 8.0, 1: 4.0, 2: 2.0, 3: 9.0 if task == "edges" else 1.0} for task in study.TASKS}
    assert study.mean({"a": {0: 2.0}, "b": {0: 8.0}}, 0) == pytest.approx(4.0)
    results = {
        "lvm": {
            "trunk_parameters": 1000, "tokens": 1.0, "held_out_loss": 3.0,
            "perplexity": {task: {str(k): v for k, v in one.items()} for task, one in found.items()}
            | {"all": {str(k): 5.0 for k in study.SHOTS}},
        }
    }  # fmt: skip
    results["delvm"] = results["lvm"] | {"held_out_loss": 2.5}
    assert "| LVM | 1,000 | 3.000 | 5.00 | 5.00 | 5.00 | 5.00 |" in study.models_table(results)
    assert "| DeLVM | 1,000 | 2.500 |" in study.models_table(results)
    assert "| task | LVM, 0 | LVM, 3 | DeLVM, 0 | DeLVM, 3 |" in study.tasks_table(results)
    assert "| edges | 8.00 | 9.00 | 8.00 | 9.00 |" in study.tasks_table(results)
    assert study.reading(results) == "3 examples help LVM in 6, DeLVM in 6 of 7 tasks."


def test_the_ways_to_balance_are_told_as_they_are(script: Any) -> None:
    study = script("delvm_balance")
    ends = {"none": [5.0, 5.0, 5.0], "resampling": [4.0, 6.0, 4.0], "augmentation": [3.0, 3.0, 4.5]}
    results = [
        {
            "way": way, "seed": seed, "tokens": [10.0, 20.0], "tail_loss": [4.5, ends[way][seed]],
            "large_loss": 3.0, "tail_perplexity": 20.0,
        }
        for seed in study.SEEDS
        for way in study.WAYS
    ]  # fmt: skip
    assert "| augmentation | 3.500 ± 0.866 | 3.500 ± 0.866 | 20.000 ± 0.000 | 3.000 ± 0.000 |" in study.table(results)
    assert "| resampling | 4.667 ± 1.155 | 4.167 ± 0.289 |" in study.table(results)
    assert "with resampling it is below that without in 2, with augmentation" in study.reading(results)
    assert "in 3 of 3; with augmentation below that with resampling in 2" in study.reading(results)


def test_the_ways_to_balance_are_recipes(script: Any) -> None:
    from fourm import recipes

    study = script("delvm_balance")
    made = {way: recipes.load("rooms_tail", SentencesRecipe, c, folder="sentences") for way, c in study.WAYS.items()}
    assert {way: (r.balance.share, r.augment is not None) for way, r in made.items()} == {
        "none": (1.0, False),
        "resampling": (0.0, False),
        "augmentation": (0.0, True),
    }
    assert all(set(r.sentences) == set(study.TASKS) for r in made.values())
