"""`fourm.backbone`: the encoder of a checkpoint, for the user's own training code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourm.config import build
from fourm.recipe.bundle import load_model
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig


def backbone(
    path: str | Path,
    modalities: Sequence[str] = ("rgb",),
    *,
    image_size: int | None = None,
    out_layers: Sequence[int] | None = None,
    pyramid: str | None = "simple",
    window: int = 0,
    pretrained: bool = True,
    seed: int = 0,
    **options: Any,
) -> Backbone:
    """A trained encoder as a module that gives maps of features.

    Args:
        path: as in `fourm.load_model`: a model folder, the output of a run, or a published checkpoint.
        modalities: what it reads, by full name or without the resolution, the most important one first.
        image_size, out_layers, pyramid, window: see `BackboneConfig`, which lists all options.
        pretrained: false gives the same network with random weights, for comparison.
        seed: of the weights that are not the checkpoint's.
        options: further fields of `BackboneConfig`, such as `out_channels` or `drop_path`.

    Raises:
        CheckpointError: if there is no model, or it does not read a modality that is asked for.
        ConfigError: if an option has no such value.
    """
    values = {
        "modalities": [modalities] if isinstance(modalities, str) else list(modalities),
        "image_size": image_size,
        "out_layers": None if out_layers is None else list(out_layers),
        "pyramid": pyramid,
        "window": window,
        **options,
    }
    config = build(BackboneConfig, values, where="fourm.backbone")
    return Backbone.from_model(load_model(path), config, pretrained=pretrained, seed=seed)
