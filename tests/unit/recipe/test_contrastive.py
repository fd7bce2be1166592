"""Recipes of towers in one space: what is checked, what they start from, and what stays as it is in training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.errors import ConfigError
from fourm.models.folder import save_model
from fourm.recipe import pretrain
from fourm.recipe.export import export
from fourm.recipe.schema import PretrainRecipe
from fourm.train.configs import OptimizerConfig
from fourm.train.distributed import World
from fourm.train.tracking import read_log
from tests.unit.recipe.conftest import recipe
from tests.unit.recipe.test_export import checkpoint
from tests.unit.train import toy_contrastive
from tests.unit.train.toy import toy_config, toy_trainer
from tests.unit.train.toy_data import DatasetLoader

TRUNK = {"kind": "multimodal", "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}
PAIR = {"kind": "contrastive", "pairs": [["rgb@64", "caption"]]}


def towers(**changes: Any) -> dict[str, Any]:
    own = {"encoder": {"kind": "model", "model": TRUNK}}
    return {"kind": "contrastive", "dim": 8, "towers": {"rgb@64": own, "caption": own}, **changes}


def contrastive(**changes: Any) -> PretrainRecipe:
    modalities = {"rgb@64": {}, "caption": {"layout": {"max_tokens": 24}}}
    return recipe(**{"modalities": modalities, "model": towers(), "objective": PAIR, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective": {"kind": "masked"}}, "belong together"),
        ({"model": {**TRUNK}}, "belong together"),
        ({"objective": {**PAIR, "loss": "sigmoid"}}, "needs model.logit_bias"),
        ({"model": towers(towers={"caption": {"encoder": {"kind": "model", "model": TRUNK}}})}, "at least two"),
        ({"model": towers(logit_scale=200)}, "above max_logit_scale"),
    ],
)
def test_what_does_not_go_together_is_an_error(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        contrastive(**changes)


def test_pairs_need_data_of_both_sides() -> None:
    made = contrastive(data={"train": {"datasets": {"rooms": {"path": "rooms", "modalities": ["rgb@64"]}}}})
    with pytest.raises(ConfigError, match=r"data\.train\.datasets\.rooms has rgb@64"):
        pretrain.build_objective(made, made.modality_set(), None)


def test_it_starts_from_another_one_and_is_exported_from_a_checkpoint(tmp_path: Path) -> None:
    first = contrastive(seed=3)
    source = pretrain.build_model(first, first.modality_set(), {})
    save_model(source, tmp_path / "first")
    second = contrastive(init_from=str(tmp_path / "first"))

    started = pretrain.build_model(second, second.modality_set(), {})

    assert all(torch.equal(value, started.state_dict()[name]) for name, value in source.state_dict().items())
    saved = checkpoint(tmp_path / "run" / "checkpoints", first)
    export(tmp_path / "run", tmp_path / "out")
    again = pretrain._source(tmp_path / "out")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in saved.state_dict().items())


def test_a_frozen_tower_does_not_move_and_the_others_learn(tmp_path: Path) -> None:
    model, objective = toy_contrastive.model(), toy_contrastive.objective()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = toy_config(freeze=("towers.image.*",), optimizer=OptimizerConfig(lr=0.01), batch_size=16, max_steps=40)
    loader = DatasetLoader(toy_contrastive.Said(), config, World(), objective)

    toy_trainer(tmp_path, config, model=model, objective=objective, loader=loader).fit()

    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved != name.startswith("towers.image."), name
    records = [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "train"]
    losses = [record["loss/image~caption"] for record in records]
    assert losses[-1] < 0.85 * math.log(16)  # that of knowing nothing of 16 samples
