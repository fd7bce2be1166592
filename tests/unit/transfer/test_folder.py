"""A fine-tuned network comes back from its folder as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fourm.errors import CheckpointError
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality
from fourm.nn.configs import LoRAConfig
from fourm.nn.lora import add_lora
from fourm.objectives.supervised_configs import ClassificationConfig
from fourm.transfer.backbone import Backbone
from fourm.transfer.folder import load_network, save_network
from fourm.transfer.head_configs import AttentiveConfig
from fourm.transfer.network import TransferNetwork

Make = Callable[..., Backbone]
LABEL = Modality("label", Sequence(1), Discrete(3), "label", "label", direction="input", classes=("a", "b", "c"))
TASK = ClassificationConfig(classes=["a", "b", "c"])


def network(make: Make) -> TransferNetwork:
    backbone = make("rgb", "codes", channels={"rgb@16": [0, 2]})
    return TransferNetwork(backbone, AttentiveConfig(num_heads=2), 3, False).eval()


@torch.no_grad()
@pytest.mark.parametrize("adapted", [False, True])
def test_it_answers_the_same(make: Make, tmp_path: Path, adapted: bool) -> None:
    saved = network(make)
    if adapted:
        add_lora(saved.backbone, LoRAConfig(rank=2), seed=0)
        for parameter in saved.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    inputs = {"rgb": torch.randn(2, 3, 24, 16), "codes": torch.randint(0, 6, (2, 4))}

    save_network(saved, TASK, LABEL, tmp_path / "model")
    loaded = load_network(tmp_path)

    assert (loaded.task, loaded.answer) == (TASK, LABEL)
    torch.testing.assert_close(loaded.network(inputs), saved(inputs))


@pytest.mark.parametrize("damage", ["nothing there", "another format", "no weights", "other sizes", "no json"])
def test_what_is_damaged_is_told(make: Make, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "config.json"
    save_network(network(make), TASK, LABEL, tmp_path)
    facts = json.loads(path.read_text())
    match damage:
        case "nothing there":
            path.unlink()
        case "another format":
            path.write_text(json.dumps({"format": "fourm-model"}))
        case "no weights":
            (tmp_path / "model.safetensors").unlink()
        case "other sizes":
            path.write_text(json.dumps({**facts, "head": {**facts["head"], "num_queries": 2}}))
        case "no json":
            path.write_text("{")

    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_network(tmp_path)
