"""The network of a fine-tuning recipe, with the weights that it begins with."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Modality, ModalitySet
from fourm.nn.lora import add_lora
from fourm.objectives.tasks import Task
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.registry import implementation
from fourm.train.configs import ParameterRule
from fourm.transfer.backbone import Backbone
from fourm.transfer.folder import load_network
from fourm.transfer.network import TransferNetwork

_LOG = logging.getLogger(__name__)


def build_network(recipe: FinetuneRecipe, answer: Modality, model: Any = None) -> tuple[TransferNetwork, Task]:
    """The network of a recipe with its initial weights, and its task.

    Args:
        recipe: describes it.
        answer: what it answers.
        model: the checkpoint's; None: sizes as in the recipe.
    """
    _check_answer(recipe, answer)
    task: Task = implementation(recipe.objective.target)(recipe.objective, answer)
    new = recipe.new_modalities()
    if model is not None:
        trained = model.model_config if isinstance(model, Backbone) else model.config
        if recipe.model is not None and recipe.model.trunk(1, cross_attention=False) != trained.trunk(
            1, cross_attention=False
        ):
            raise CheckpointError(
                f"{recipe.init_from} has another network than `model` describes (width {trained.dim}, not "
                f"{recipe.model.dim}, or other options); leave `model` out to take the checkpoint's"
            )
        backbone = Backbone.from_model(model, recipe.backbone, new=new, pretrained=recipe.pretrained, seed=recipe.seed)
    else:
        chosen = [recipe.entry(name) for name in recipe.backbone.modalities]
        backbone = Backbone(ModalitySet(chosen), recipe.model, recipe.backbone, recipe.seed)
    network = TransferNetwork(backbone, recipe.head, task.num_outputs, task.is_dense, recipe.seed)
    if recipe.weights_from is not None:
        start_from(network, recipe.weights_from)
    if recipe.lora is not None:
        add_lora(network.backbone, recipe.lora, recipe.seed)
    if recipe.frozen:
        network.backbone.requires_grad_(False)
    for name, parameter in network.backbone.named_parameters():
        if network.backbone.is_new(name):  # nobody has trained it before
            parameter.requires_grad_(True)
    return network, task


def start_from(network: TransferNetwork, path: Path) -> None:
    """Copy the backbone of a fine-tuned network, and those weights of its head that have the same shape.

    Raises:
        CheckpointError: if it is missing, or of another backbone.
    """
    source = load_network(path).network
    try:
        network.backbone.load_state_dict(source.backbone.state_dict())
    except RuntimeError as error:
        reason = str(error).partition("\n\t")[2].partition("\n")[0]
        raise CheckpointError(
            f"weights_from: {path} has another backbone than this recipe: {reason}. Take the same modalities and sizes"
        ) from None
    own = network.head.state_dict()
    fitting = {k: v for k, v in source.head.state_dict().items() if k in own and own[k].shape == v.shape}
    network.head.load_state_dict(fitting, strict=False)
    _LOG.info("started from %s: the backbone and %d of %d weights of the head", path, len(fitting), len(own))


def with_layer_decay(recipe: FinetuneRecipe, network: TransferNetwork) -> FinetuneRecipe:
    """The recipe with a rule of the learning rate for every layer, behind its own rules."""
    if recipe.layer_decay == 1:
        return recipe
    scales = network.layer_scales(recipe.layer_decay)
    rules = [*recipe.train.optimizer.rules, *(ParameterRule(name, lr_scale=s) for name, s in scales.items())]
    return replace(recipe, train=replace(recipe.train, optimizer=replace(recipe.train.optimizer, rules=rules)))


def _check_answer(recipe: FinetuneRecipe, answer: Modality) -> None:
    if recipe.is_dense and answer.decode in ("tokens", "features"):
        raise ConfigError(
            f"objective.modality is '{answer.name}', which holds {answer.decode} made by a network; name the map itself"
        )
