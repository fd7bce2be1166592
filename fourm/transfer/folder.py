"""A fine-tuned network, or a backbone alone, as a self-contained folder: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fourm import config as configs
from fourm.errors import CheckpointError, ConfigError
from fourm.files import publish, replacing
from fourm.modality import Modality, ModalitySet, from_dict, to_dict
from fourm.models.configs import MODELS
from fourm.nn.init import adopt_weights
from fourm.nn.lora import merge_lora
from fourm.objectives.supervised_configs import TASKS
from fourm.registry import implementation
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.head_configs import HEADS
from fourm.transfer.network import TransferNetwork

FORMAT = "fourm-transfer"
VERSION = 1


@dataclass(frozen=True)
class TransferFacts:
    """What `config.json` holds.

    Args:
        format, version: of the folder.
        modalities: name -> facts of the inputs, the most important one first.
        answer: name -> facts of what is answered; empty for a backbone alone.
        model: config of the model that the encoder comes from.
        backbone, head, task: configs; a backbone alone has neither head nor task.
    """

    format: str
    version: int
    modalities: dict[str, Any]
    answer: dict[str, Any]
    backbone: BackboneConfig
    model: Any = configs.slot(MODELS)
    head: Any = configs.slot(HEADS, optional=True)
    task: Any = configs.slot(TASKS, optional=True)


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

    plain = deepcopy(network)
    merge_lora(plain)
    _save(plain, plain.backbone, {answer.name: to_dict(answer)}, plain.head_config, task, folder)


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write a backbone without a head.

    Raises:
        CheckpointError: if the disk is full.
    """
    _save(backbone, backbone, {}, None, None, folder)


def _save(module: nn.Module, backbone: Backbone, answer: dict[str, Any], head: Any, task: Any, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    facts = TransferFacts(
        FORMAT, VERSION, {name: to_dict(m) for name, m in backbone.modalities.items()}, answer,
        backbone.config, backbone.model_config, head, task,
    )  # fmt: skip
    prefix = "backbone." if module is backbone else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        with replacing(folder / "model.safetensors") as path:
            save_file({prefix + k: v.contiguous() for k, v in module.state_dict().items()}, str(path))
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
    network, facts = _load(path)
    if not isinstance(network, TransferNetwork):
        raise CheckpointError(
            f"{path} is a backbone without a head, which answers nothing: read it with fourm.backbone, or train a head "
            "with `fourm finetune` and init_from"
        )
    return FineTuned(network.eval(), facts.task, from_dict(*next(iter(facts.answer.items()))))


def load_backbone(path: str | Path) -> Backbone:
    """The backbone of a fine-tuned network, or one that was saved alone, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: as `load_network`.
    """
    network, _ = _load(path)
    return (network.backbone if isinstance(network, TransferNetwork) else network).eval()


def is_network(path: str | Path) -> bool:
    """Whether a folder holds a fine-tuned network or a backbone, instead of a model."""
    folder = _folder(path)
    try:
        return folder is not None and json.loads((folder / "config.json").read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def _folder(path: str | Path) -> Path | None:
    return next((p for p in (Path(path) / "model", Path(path)) if (p / "config.json").is_file()), None)


def _load(path: str | Path) -> tuple[TransferNetwork | Backbone, TransferFacts]:
    folder = _folder(path)
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
        modalities = ModalitySet(from_dict(name, m) for name, m in facts.modalities.items())
        network: TransferNetwork | Backbone
        with torch.device("meta"):
            network = Backbone(modalities, facts.model, facts.backbone)
        if facts.head is not None and facts.task is not None:
            task = implementation(facts.task.target)(facts.task, from_dict(*next(iter(facts.answer.items()))))
            with torch.device("meta"):
                network = TransferNetwork(network, facts.head, task.num_outputs, task.is_dense)
    except (ConfigError, ValueError, StopIteration) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder / 'config.json'} is damaged or of another version: {error}. Export it again"
        ) from None
    try:
        from safetensors.torch import load_file

        prefix = "" if isinstance(network, TransferNetwork) else "backbone."
        state = {name.removeprefix(prefix): value for name, value in load_file(folder / "model.safetensors").items()}
        adopt_weights(network, state)
    except Exception as error:  # what is missing, cut off or of another shape
        raise CheckpointError(
            f"{folder / 'model.safetensors'} does not fit its config.json or is damaged: {error}"
        ) from None
    return network, facts
