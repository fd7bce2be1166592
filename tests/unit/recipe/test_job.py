"""What all training recipes share: data, loaders, fixed evaluation and the trainer."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.data.shards import ShardWriter
from fourm.objectives.configs import MaskComponent
from fourm.recipe import pretrain
from fourm.recipe.job import TrainingJob, train_config
from fourm.recipe.schema import PretrainRecipe
from fourm.train.distributed import World
from tests.unit.recipe.conftest import recipe

TOKENS = {
    "layout": {"kind": "grid", "height": 2, "width": 2}, "content": {"kind": "discrete", "vocab_size": 7},
    "decode": "tokens",
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> PretrainRecipe:
    """Two token grids of eight samples."""
    with ShardWriter(tmp_path / "data", 0, {"a": "npy", "b": "npy"}) as writer:
        for n in range(8):
            buffer = io.BytesIO()
            np.save(buffer, (np.arange(4) + n) % 7)
            writer.write(f"{n}", {"a": buffer.getvalue(), "b": buffer.getvalue()})
    data = {"datasets": {"set": {"path": str(tmp_path / "data")}}}
    return recipe(
        modalities={"a": TOKENS, "b": TOKENS},
        data={"train": data, "val": data},
        objective={"kind": "masked", "num_input_tokens": 2, "num_target_tokens": 3},
        train={"max_steps": 2, "batch_size": 4, "device": "cpu", "precision": "fp32", "tensorboard": False},
        output=str(tmp_path / "run"),
        seed=5,
    )


def job_of(made: PretrainRecipe, **more: Any) -> TrainingJob:
    modalities = made.modality_set()
    return TrainingJob(made, World(), modalities, pretrain.build_objective(made, modalities, None), **more)


def batches(job: TrainingJob, cursor: Any = None, count: int = 3) -> list[tuple[Any, Any]]:
    return list(islice(iter(job.loader(cursor)), count))


def test_the_seed_of_the_recipe_is_that_of_the_training(small: PretrainRecipe) -> None:
    assert train_config(small).seed == 5
    assert train_config(small).max_steps == 2


def test_batches_have_the_size_asked_for_and_go_on_from_a_cursor(small: PretrainRecipe) -> None:
    job = job_of(small)
    first, second, third = batches(job)

    again = batches(job, first[1], 2)

    assert first[0].decoder.num_samples == 4
    for (ours, _), (theirs, _) in zip((second, third), again, strict=True):
        assert torch.equal(ours.decoder.target_ids, theirs.decoder.target_ids)
    assert not torch.equal(first[0].decoder.target_ids, second[0].decoder.target_ids)


def test_evaluation_asks_the_same_each_time(small: PretrainRecipe) -> None:
    job, model = job_of(small), pretrain.build_model(small, small.modality_set(), {})

    with torch.no_grad():
        first, again = job.evaluate(model), job.evaluate(model)

    assert first == again
    assert set(first) == {"loss", "loss/a", "loss/b"}


def test_evaluation_with_fixed_budgets_comes_beside_that_with_the_recipe_s_own(small: PretrainRecipe) -> None:
    model = pretrain.build_model(small, small.modality_set(), {})
    small.evaluation.fixed_input_tokens, small.evaluation.fixed_target_tokens = 2, 3

    with torch.no_grad():
        same = job_of(small).evaluate(model)
        small.evaluation.fixed_target_tokens = 1
        other = job_of(small).evaluate(model)

    assert same["fixed/loss"] == same["loss"]  # these are its own budgets
    assert set(same) == {"loss", "loss/a", "loss/b", "fixed/loss", "fixed/loss/a", "fixed/loss/b"}
    assert other["loss"] == same["loss"]
    assert other["fixed/loss"] != same["loss"]


def test_data_sets_are_masked_by_components_of_their_own(small: PretrainRecipe) -> None:
    small.objective.datasets = {"set": [MaskComponent(target_alphas={"b": 1.0})]}
    job = job_of(small)

    assert job.objective.counts(batches(job, count=1)[0][0])["a"] == 0
    assert "loss/a" not in job.evaluate(pretrain.build_model(small, small.modality_set(), {}))


def test_a_finished_run_has_its_recipe_its_tokenizers_and_an_export(small: PretrainRecipe, tmp_path: Path) -> None:
    model = pretrain.build_model(small, small.modality_set(), {})

    job_of(small, tokenizers={"a": "hash of a"}).fit(
        model, lambda trained, path: (path / "exported").touch(), statistics=lambda: {"extra": 1.0}
    )

    record = json.loads((tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert record["metadata"]["tokenizers"] == {"a": "hash of a"}
    assert record["metadata"]["recipe"]["name"] == "small"
    assert record["metrics"]["extra"] == 1.0
    assert (tmp_path / "run" / "model" / "exported").is_file()
