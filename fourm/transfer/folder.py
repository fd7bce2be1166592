"""A fine-tuned network as a self-contained folder: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fourm import config as configs
from fourm.errors import CheckpointError, ConfigError
from fourm.files import publish, replacing
from fourm.modality import Modality, ModalitySet, from_dict, to_dict
from fourm.models.configs import MODELS
from fourm.nn.init import adopt_weights
from fourm.objectives.supervised_configs import TASKS
from fourm.registry import implementation
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.head_configs import HEADS
from fourm.transfer.lora import merge_lora
from fourm.transfer.network import TransferNetwork

FORMAT = "fourm-transfer"
VERSION = 1


@dataclass(frozen=True)
class TransferFacts:
    """What `config.json` holds.

    Args:
        format, version: of the folder.
        modalities: name -> facts of the inputs, the most important one first.
        answer: name -> facts of what is answered.
        model: config of the model that the encoder comes from.
        backbone, head, task: configs.
    """

    format: str
    version: int
    modalities: dict[str, Any]
    answer: dict[str, Any]
    backbone: BackboneConfig
    model: Any = configs.slot(MODELS)
    head: Any = configs.slot(HEADS)
    task: Any = configs.slot(TASKS)


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned network and what it answers.

    Args:
        network: in evaluation mode.
        task: config of the task.
        answer: the modality it is compared with, with its classes.
    """

    network: TransferNetwork
    task: Any
    answer: Modality


def save_network(network: TransferNetwork, task: Any, answer: Modality, folder: Path) -> None:
    """Write a network; adapters are merged into the layers they belong to.

    Raises:
        CheckpointError: if the disk is full.
    """
    from copy import deepcopy

    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = deepcopy(network)
    merge_lora(plain)
    backbone = plain.backbone
    facts = TransferFacts(
        FORMAT, VERSION, {name: to_dict(m) for name, m in backbone.modalities.items()}, {answer.name: to_dict(answer)},
        backbone.config, backbone.model_config, plain.head_config, task,
    )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        with replacing(folder / "model.safetensors") as path:
            save_file({k: v.contiguous() for k, v in plain.state_dict().items()}, str(path))
        publish(folder / "config.json", json.dumps(configs.to_dict(facts), indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot save the network in {folder}: {error}. Free space or choose another folder"
        ) from error


def load_network(path: str | Path) -> FineTuned:
    """A fine-tuned network, in evaluation mode, on the CPU.

    Args:
        path: its folder, or the output folder of a fine-tuning run.

    Raises:
        CheckpointError: if it is missing, damaged or something else.
    """
    folder = next((p for p in (Path(path) / "model", Path(path)) if (p / "config.json").is_file()), None)
    if folder is None:
        raise CheckpointError(f"there is no fine-tuned network in {path}: expected the output of `fourm finetune`")
    try:
        plain = json.loads((folder / "config.json").read_text())
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder} is not a fine-tuned network (format '{FORMAT}'); fourm.load_model reads models, and "
                "`fourm finetune` makes networks of them"
            )
        facts = configs.build(TransferFacts, plain, where=str(folder / "config.json"))
        answer = from_dict(*next(iter(facts.answer.items())))
        modalities = ModalitySet(from_dict(name, m) for name, m in facts.modalities.items())
        task = implementation(facts.task.target)(facts.task, answer)
        with torch.device("meta"):
            backbone = Backbone(modalities, facts.model, facts.backbone)
            network = TransferNetwork(backbone, facts.head, task.num_outputs, task.is_dense)
    except (ConfigError, ValueError, StopIteration) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder / 'config.json'} is damaged or of another version: {error}. Export it again"
        ) from None
    try:
        from safetensors.torch import load_file

        adopt_weights(network, load_file(folder / "model.safetensors"))
    except Exception as error:  # what is missing, cut off or of another shape
        raise CheckpointError(
            f"{folder / 'model.safetensors'} does not fit its config.json or is damaged: {error}"
        ) from None
    return FineTuned(network.eval(), facts.task, answer)
