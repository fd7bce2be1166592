"""`fourm finetune --check`: build a recipe on the meta device and say what it consists of, without data or weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from fourm.recipe.finetune import build_network, with_layer_decay
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.train.optimizer import parameter_groups, select_trainable
from fourm.transfer.network import TransferNetwork


def meta_network(recipe: FinetuneRecipe) -> TransferNetwork:
    """The network of a recipe without weights, by the sizes under `model`, or else those of the checkpoint.

    Raises:
        ConfigError: if parts of the recipe contradict one another.
        CheckpointError: if there is no checkpoint and no `model`.
    """
    model: Any = None
    if recipe.model is None:
        from fourm.recipe.pretrained import load_encoder

        model = load_encoder(recipe.init_from or "").to("meta")
    classes = tuple(getattr(recipe.objective, "classes", ()))
    with torch.device("meta"):
        network, _ = build_network(recipe, recipe.answer(classes), model)
    return network


def check(recipe: FinetuneRecipe) -> list[str]:
    """Parameters by part, and what of them is trained at which rate, in words.

    Raises:
        ConfigError: as `meta_network`, and for rules that match nothing.
    """
    network = meta_network(recipe)
    train = with_layer_decay(recipe, network).train
    select_trainable(network, train.trainable, train.freeze)
    total: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        part = ".".join(name.split(".")[: 2 if name.startswith("backbone.") else 1])
        total[part] += parameter.numel()
        trained[part] += parameter.numel() if parameter.requires_grad else 0
    scales = sorted(group["lr_scale"] for group in parameter_groups(network, train.optimizer))
    return [
        f"parameters            {total.total() / 1e6:12.2f} M, trained {trained.total() / 1e6:.2f} M",
        *(f"  {part:<22}{n / 1e6:10.2f} M, trained {trained[part] / 1e6:.2f} M" for part, n in total.items()),
        f"learning rate         {train.peak_lr * scales[0]:12.3e} at the bottom to {train.peak_lr * scales[-1]:.3e}",
    ]
