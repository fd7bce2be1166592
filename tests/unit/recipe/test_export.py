"""A checkpoint becomes a model folder, and a model with other modalities starts from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fourm import config as configs
from fourm.cli import cli
from fourm.errors import CheckpointError
from fourm.models.folder import load_model
from fourm.recipe import pretrain
from fourm.recipe.export import export
from fourm.recipe.schema import PretrainRecipe
from fourm.train.checkpoint import CheckpointStore
from fourm.train.distributed import World
from fourm.train.ema import WeightAverage
from fourm.train.optimizer import build_optimizer
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState
from tests.unit.recipe.conftest import recipe


def checkpoint(folder: Path | str, made: PretrainRecipe, *, averaged: bool = False) -> Any:
    """A checkpoint of a recipe's model, whose averaged weights are twice its weights."""
    model = pretrain.build_model(made, made.modality_set(), {})
    average = WeightAverage(model, 0.9) if averaged else None
    if average is not None:
        for tensor in average.mean.values():
            tensor.mul_(2.0)
    metadata = {"recipe": configs.to_dict(made)}
    store = CheckpointStore(folder, World())
    snapshot = Snapshot(store, model, build_optimizer(model, made.train), average, made.train, metadata)
    snapshot.save(RunState(step=3), [])
    return model


@pytest.mark.parametrize("averaged", [False, True])
def test_the_newest_checkpoint_of_a_run_becomes_a_model_folder(tmp_path: Path, averaged: bool) -> None:
    model = checkpoint(tmp_path / "run" / "checkpoints", recipe(), averaged=averaged)
    message = export(tmp_path / "run", tmp_path / "model")
    assert message.endswith("checkpoints/step-00000003 (step 3)")
    assert ("averaged weights" in message) == averaged
    found = load_model(tmp_path / "model")
    factor = 2.0 if averaged else 1.0
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], factor * tensor, rtol=0, atol=0)


def test_the_last_weights_on_request_from_a_url_on_the_command_line(tmp_path: Path) -> None:
    model = checkpoint(f"file://{tmp_path}/checkpoints", recipe(), averaged=True)
    source = f"file://{tmp_path}/checkpoints/step-00000003"
    done = CliRunner().invoke(cli, ["export", source, str(tmp_path / "model"), "--last"])
    assert done.exit_code == 0, done.output
    weight = load_model(tmp_path / "model").heads.weight
    assert torch.equal(weight, model.heads.weight)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint in"):
        export(tmp_path, tmp_path / "model")
    checkpoint(tmp_path / "checkpoints", recipe())
    with pytest.raises(CheckpointError, match=r"no averaged weights.*train\.ema_decay"):
        export(tmp_path, tmp_path / "model", averaged=True)
    assert not (tmp_path / "model").exists()


def test_a_model_with_other_modalities_starts_from_a_checkpoint(tmp_path: Path) -> None:
    old = checkpoint(tmp_path / "checkpoints", recipe(seed=1))
    modalities = {"rgb@64": {}, "tok_depth@64": {}, "tok_normal@64": {}}  # no captions any more, but normals
    made = recipe(modalities=modalities, init_from=str(tmp_path), seed=2)
    new = pretrain.build_model(made, made.modality_set(), {})
    assert torch.equal(new.heads.rows("tok_depth@64"), old.heads.rows("tok_depth@64"))
    assert torch.equal(new.encoder.blocks[0].attn.qkv.weight, old.encoder.blocks[0].attn.qkv.weight)
    assert "caption" not in new.heads.map.rows
    fresh = pretrain.build_model(recipe(modalities=modalities, seed=2), made.modality_set(), {})
    assert torch.equal(new.heads.rows("tok_normal@64"), fresh.heads.rows("tok_normal@64"))


def test_a_model_on_the_meta_device_has_no_weights_yet_and_reads_none() -> None:
    with torch.device("meta"):
        model = pretrain.build_model(recipe(init_from="nowhere"), recipe().modality_set(), {})
    assert all(parameter.is_meta for parameter in model.parameters())


def test_adapters_are_merged_into_the_weights_of_the_model_folder(tmp_path: Path) -> None:
    made = recipe(lora={"rank": 2, "match": ["decoder.blocks.*.attn.qkv"]})
    model = checkpoint(tmp_path / "checkpoints", made)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_()
    metadata = {"recipe": configs.to_dict(made)}
    snapshot = Snapshot(
        CheckpointStore(tmp_path / "checkpoints", World()), model, build_optimizer(model, made.train), None,
        made.train, metadata,
    )  # fmt: skip
    snapshot.save(RunState(step=4), [])
    export(tmp_path, tmp_path / "model")
    adapted = model.decoder.blocks[0].attn.qkv
    merged = load_model(tmp_path / "model").decoder.blocks[0].attn.qkv
    torch.testing.assert_close(merged.weight, adapted.weight + adapted.change())
    assert not torch.allclose(merged.weight, adapted.weight)


def test_adapters_leave_the_weights_of_their_layers_alone_and_the_rest_to_the_recipe() -> None:
    model = pretrain.build_model(recipe(lora={"rank": 2, "match": ["decoder.blocks.*"]}), recipe().modality_set(), {})
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    layers = ("attn.qkv", "attn.proj", "cross_attn", "mlp")
    assert frozen
    assert all(name.startswith("decoder.blocks.") and any(layer in name for layer in layers) for name in frozen)
    assert model.heads.weight.requires_grad
