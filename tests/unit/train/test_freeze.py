"""What is frozen does not move, and everything else moves as if nothing were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.models.multimodal import Multimodal
from fourm.train.configs import FreezeStage, OptimizerConfig
from fourm.train.distributed import World
from tests.unit.train import toy_multimodal as toy
from tests.unit.train.toy import ToyModel, toy_config, toy_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def train(output: Path, model: Any = None, **config: Any) -> tuple[dict[str, Tensor], Multimodal]:
    """Weights before and the model after some steps."""
    model = model or toy.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values: dict[str, Any] = {"max_steps": 4, "optimizer": OptimizerConfig(lr=0.01, weight_decay=0.5), **config}
    settings, objective = toy_config(**values), toy.objective()
    loader = toy.MixedLoader(settings, World(), objective)
    toy_trainer(output, settings, model=model, objective=objective, loader=loader).fit()
    return before, model


def moved(before: dict[str, Tensor], model: Multimodal, name: str, rows: slice | None = None) -> Tensor:
    """(rows,) bool: which rows of a parameter have changed."""
    rows = rows or slice(None)
    return (model.state_dict()[name][rows] != before[name][rows]).flatten(1).any(1)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_rows_of_a_frozen_modality_stay_bit_for_bit(tmp_path: Path, kind: Any) -> None:
    optimizer = OptimizerConfig(kind=kind, lr=0.01, weight_decay=0.5, matrices=["*.weight"])
    before, model = train(tmp_path, freeze_modalities=["depth", "rgb"], optimizer=optimizer)
    for modality in ("depth", "rgb"):
        for name, rows in model.parameters_of(modality).items():
            assert not moved(before, model, name, rows).any(), name
    codes = model.parameters_of("codes")
    assert moved(before, model, "heads.weight", codes["heads.weight"]).all()
    assert moved(before, model, "encoder.blocks.0.attn.qkv.weight").all()


def test_parameters_of_a_modality_are_its_rows_of_every_table_and_its_projection() -> None:
    model = toy.model()
    assert set(model.parameters_of("rgb")) == {
        "input_embedder.modality_embedding.weight",
        "target_embedder.modality_embedding.weight",
        "input_embedder.projections.rgb.weight",
    }
    codes = model.parameters_of("codes")
    assert codes["heads.weight"] == slice(350, 356)
    assert codes["input_embedder.positions.learned"] == slice(0, 4)
    assert codes["target_embedder.modality_embedding.weight"] == slice(4, 5)


def test_a_stage_trains_less_and_then_all_goes_on(tmp_path: Path) -> None:
    stage = FreezeStage(until_steps=2, trainable=["heads.*"], freeze_modalities=["depth"])
    before, model = train(tmp_path / "during", max_steps=2, stages=[stage])
    assert not moved(before, model, "encoder.blocks.0.attn.qkv.weight").any()
    assert not moved(before, model, "heads.weight", model.parameters_of("depth")["heads.weight"]).any()
    assert moved(before, model, "heads.weight", model.parameters_of("codes")["heads.weight"]).all()
    before, model = train(tmp_path / "after", max_steps=3, stages=[stage])
    assert moved(before, model, "encoder.blocks.0.attn.qkv.weight").all()
    assert moved(before, model, "heads.weight").any()


def test_a_stage_scales_the_learning_rate_of_its_steps(tmp_path: Path) -> None:
    from fourm.train.tracking import read_log

    plain, staged = tmp_path / "plain", tmp_path / "staged"
    toy_trainer(plain, toy_config(max_steps=4)).fit()
    stages = [FreezeStage(until_tokens=16, lr_scale=0.5)]
    toy_trainer(staged, toy_config(max_steps=4, stages=stages)).fit()
    rates = [[r["lr"] for r in read_log(output / "log.jsonl")] for output in (plain, staged)]
    assert [b / a for a, b in zip(*rates, strict=True)] == [0.5, 0.5, 1.0, 1.0]


def test_a_stage_resumes_exactly(tmp_path: Path) -> None:
    stages = [FreezeStage(until_steps=3, trainable=["heads.*"], freeze_modalities=["caption"])]
    _, whole = train(tmp_path / "whole", max_steps=5, stages=stages, save_every_steps=2)
    for later in ("step-00000004", "step-00000005"):
        import shutil

        shutil.rmtree(tmp_path / "whole" / "checkpoints" / later, ignore_errors=True)
    (tmp_path / "whole" / "completed.json").unlink()
    _, again = train(tmp_path / "whole", max_steps=5, stages=stages, save_every_steps=2)
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"freeze_modalities": ["depht"]}, r"train\.freeze_modalities: 'depht' is not a modality.*'depth'"),
        ({"stages": [FreezeStage(until_steps=1, trainable=["head.*"])]}, r"stages\[0\]\.trainable: 'head\.\*'"),
        ({"stages": [FreezeStage(until_steps=1, freeze=["*"])]}, r"stages\[0\] leaves no parameter to train"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, **config)


def test_models_without_modalities_freeze_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ToyModel has no parameters by modality; freeze them by name"):
        toy_trainer(tmp_path, toy_config(freeze_modalities=["depth"]), model=ToyModel()).fit()


def test_a_stage_has_one_end() -> None:
    with pytest.raises(ConfigError, match="until_steps"):
        FreezeStage()
