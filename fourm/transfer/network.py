"""A backbone with a head: what is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourm.registry import implementation
from fourm.rng import torch_seed
from fourm.transfer.backbone import Backbone


class TransferNetwork(nn.Module):
    """Answers one task.

    Args:
        backbone: reads the inputs.
        head: config of the head.
        num_outputs: classes, or channels of a map.
        dense: whether there is an answer for every pixel.
        seed: of the head's weights.

    Raises:
        ConfigError: if the head cannot give such answers, or read this backbone.
    """

    def __init__(self, backbone: Backbone, head: Any, num_outputs: int, dense: bool, seed: int = 0) -> None:
        super().__init__()
        self.head_config, self.num_outputs, self.dense = head, num_outputs, dense
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "head"))
            self.head = implementation(head.target)(head, backbone, num_outputs, dense)

    def forward(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None, **targets: Any) -> Any:
        """Modality -> values, as for `Backbone.forward` -> (B, num_outputs) or (B, num_outputs, h, w).

        Detectors take lists of images and, in training, `targets`: see `fourm.transfer.detector.DetectorHead`.
        """
        return self.head(self.backbone, inputs, present, **targets)

    def layer_scales(self, decay: float) -> dict[str, float]:
        """Pattern of parameter names -> factor of the learning rate: `decay` per layer, counted from the head down."""
        layers: dict[str, int] = {}
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad:
                layers[_pattern(name)] = self.backbone.layer_of(name)
        deepest = self.backbone.num_layers - 1
        return {
            f"backbone.{pattern}": decay ** (deepest - layer) for pattern, layer in layers.items() if layer < deepest
        }


def _pattern(name: str) -> str:
    """`encoder.blocks.3.*` for all parameters of a block, `stems.rgb@224.*` for those of an embedder."""
    parts = name.split(".")
    depth = {"encoder": 3 if parts[1:2] == ["blocks"] else 1, "stems": 2}.get(parts[0], 1)
    return name if len(parts) <= depth else ".".join([*parts[:depth], "*"])
