"""Towers are read where they come from once: not for later stages, and not when a checkpoint is exported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fourm.errors import CheckpointError, ConfigError
from fourm.models.folder import load_model, save_model
from fourm.recipe import pretrain
from fourm.recipe.export import export
from fourm.recipe.schema import PretrainRecipe
from tests.unit.recipe.conftest import recipe
from tests.unit.recipe.test_export import checkpoint

TIMM = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"patch_size": 8, "depth": 1}}
IMAGE = {
    "layout": {"kind": "slots", "num_tokens": 4, "height": 16, "width": 16},
    "content": {"kind": "continuous", "dim": 32},
    "source": "rgb", "decode": "image", "channels": 3, "normalization": "half", "direction": "input",
}  # fmt: skip


def reader(tower: dict[str, Any], **changes: Any) -> PretrainRecipe:
    """A decoder of text that reads images through a tower."""
    text = {"layout": {"kind": "sequence", "max_tokens": 64, "num_positions": 64},
            "content": {"kind": "discrete", "vocab_size": 40}, "decode": "text", "tokenizer": "text"}  # fmt: skip
    model = {"kind": "multimodal", "dim": 32, "encoder_depth": 0, "decoder_depth": 1, "num_heads": 2,
             "rope_theta": 1e4, "position_tables": False, "modality_embeddings": False, "tie_heads": False,
             "feeders": {"image": {"kind": "vision", "tower": tower, "pooler": {"kind": "linear"}}}}  # fmt: skip
    return recipe(
        modalities={"text": text, "image": IMAGE}, model=model, objective={"kind": "autoregressive"}, **changes
    )


def build(made: PretrainRecipe) -> Any:
    return pretrain.build_model(made, made.modality_set(), {})


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, Any]:
    """The encoder of a model of ours as a tower."""
    source = recipe(modalities={"rgb@64": {"layout": {"height": 16, "width": 16}}, "tok_depth@64": {}})
    save_model(build(source), tmp_path / "encoder")
    return {"kind": "model", "path": str(tmp_path / "encoder")}


@pytest.mark.parametrize("kind", ["model", "pretrained", "weights"])
def test_later_stages_and_exports_do_without_the_source_of_a_tower(
    kind: str, tmp_path: Path, trained: dict[str, Any], monkeypatch: Any
) -> None:
    first = reader(trained if kind == "model" else TIMM)
    stage = checkpoint(tmp_path / "run" / "checkpoints", first)
    save_model(stage, tmp_path / "stage")
    gone = {"pretrained": {**TIMM, "pretrained": True}, "weights": {**TIMM, "weights": str(tmp_path / "none")}}

    def refuse(*_: Any, **__: Any) -> None:
        raise CheckpointError("nothing may be read here")

    later = reader(gone.get(kind, trained), init_from=str(tmp_path / "stage"))
    only_source = load_model(tmp_path / "stage")
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    if kind == "model":
        (tmp_path / "encoder" / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="is missing"):
            build(first)
    built = build(later)
    for name, tensor in only_source.state_dict().items():
        torch.testing.assert_close(built.state_dict()[name], tensor, rtol=0, atol=0)
    assert built.config == later.model

    checkpoint(tmp_path / "later" / "checkpoints", later)
    export(tmp_path / "later", tmp_path / "exported")
    exported = load_model(tmp_path / "exported")
    for name, tensor in only_source.state_dict().items():
        torch.testing.assert_close(exported.state_dict()[name], tensor, rtol=0, atol=0)
    image = torch.rand(1, 3, 16, 16)
    feeders = [m.input_embedder.feeders["image"] for m in (only_source, exported)]
    torch.testing.assert_close(feeders[0](image), feeders[1](image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (SimpleNamespace(reads={"image": (4, 64)}), "paints 4 vectors of 64 numbers as 'image'"),
        (SimpleNamespace(reads={"image": (9, 32)}), "is 4 vectors of 32 numbers"),
        (SimpleNamespace(reads={"image": (4, 32), "text": (3, 8)}), "and 3 vectors of 8 numbers as 'text'"),
        (SimpleNamespace(kind="vqvae"), "paints no vectors, but is of kind vqvae"),
    ],
)
def test_what_paints_other_vectors_is_refused_before_training(decoder: Any, message: str) -> None:
    made = reader(TIMM, tokenizers={"image": "painter"})
    with pytest.raises(ConfigError, match=message):
        pretrain._check_tokens(made, made.modality_set(), {"image": decoder})
    pretrain._check_tokens(made, made.modality_set(), {"image": SimpleNamespace(reads={"image": (4, 32)})})  # type: ignore[dict-item]
