"""`fourm.backbone` and `fourm.load_network`: what was trained, for the user's own code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourm.config import build, to_dict
from fourm.convert import checkpoints
from fourm.recipe.bundle import load_model
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.folder import FineTuned, is_network, load_backbone
from fourm.transfer.folder import load_network as read_network

AUTO = "auto"


def load_network(path: str | Path) -> FineTuned:
    """A fine-tuned network with its head, in evaluation mode, on the CPU: `.network(images)` answers.

    Args:
        path: the output of `fourm finetune`, or what `fourm convert` made of an encoder with a head.

    Raises:
        CheckpointError: if there is none, it has no head, or it is damaged.
    """
    checkpoints.tell_licence_of(Path(path))
    return read_network(path)


def load_encoder(path: str | Path) -> Any:
    """What a backbone can be made of: a `Multimodal` (see `fourm.load_model`), or the backbone of a fine-tuned network.

    Raises:
        CheckpointError: if there is neither, or it is damaged.
    """
    if not is_network(path):
        return load_model(path)
    checkpoints.tell_licence_of(Path(path))
    return load_backbone(path)


def backbone(
    path: str | Path,
    modalities: Sequence[str] | None = None,
    *,
    image_size: int | None = None,
    out_layers: Sequence[int] | None = None,
    pyramid: str | None = AUTO,
    window: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
    **options: Any,
) -> Backbone:
    """A trained encoder as a module that gives maps of features.

    Args:
        path: as in `fourm.load_model`: a model folder, the output of a run, or a published checkpoint; or a fine-tuned
            network or converted encoder, whose own options hold where none are given here.
        modalities: what it reads, by full name or without the resolution, the most important one first. None: RGB.
        image_size, out_layers, pyramid, window: see `BackboneConfig`, which lists all options. `auto` is a simple
            pyramid for a model, and none where `out_layers` names the blocks that are wanted.
        pretrained: false gives the same network with random weights, for comparison.
        seed: of the weights that are not the checkpoint's.
        options: further fields of `BackboneConfig`, such as `out_channels` or `drop_path`.

    Raises:
        CheckpointError: if there is no model, or it does not read a modality that is asked for.
        ConfigError: if an option has no such value.
    """
    source, of_model = load_encoder(path), "simple" if out_layers is None else None
    values = {**to_dict(source.config), "new": []} if isinstance(source, Backbone) else {"pyramid": of_model}
    if modalities is not None:
        values["modalities"] = [modalities] if isinstance(modalities, str) else list(modalities)
    if pyramid != AUTO:
        values["pyramid"] = pyramid
    if out_layers is not None:
        options["out_layers"] = list(out_layers)
    given = {"image_size": image_size, "window": window}
    values |= {name: value for name, value in given.items() if value is not None} | options
    config = build(BackboneConfig, values, where="fourm.backbone")
    return Backbone.from_model(source, config, pretrained=pretrained, seed=seed)
