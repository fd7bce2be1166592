"""The dense head of the 4M papers: tokens unfolded, ConvNeXt blocks, a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.transfer.backbone import Backbone
from fourm.transfer.head_configs import ConvNeXtConfig
from fourm.transfer.heads import Inputs, Present


class ConvNeXtHead(nn.Module):
    """Reads the last map at the stride of the patches; with four layers, all of them side by side.

    Raises:
        ConfigError: for tasks with one answer per image, or a backbone with a pyramid.
    """

    def __init__(self, config: ConvNeXtConfig, backbone: Backbone, num_outputs: int, dense: bool) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXtBlock

        if not dense:
            raise ConfigError("head.kind convnext gives maps; for one answer per image take linear or attentive")
        if backbone.pyramid is not None:
            raise ConfigError("head.kind convnext makes its own finer map: set backbone.pyramid to null")
        layers = 1 if backbone.out_layers is None else len(backbone.out_layers)
        self.unfold = config.unfold
        self.project = nn.Linear(layers * backbone.num_features, config.dim)
        channels = config.dim // config.unfold**2
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock(channels, drop_path=config.drop_path, ls_init_value=1e-6) for _ in range(config.depth))
        )
        self.linear = nn.Conv2d(channels, num_outputs, 1)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs, unfold * h, unfold * w)."""
        maps = list(backbone(inputs, present).values())
        joined = [x.permute(0, 2, 3, 1) for x in maps]
        hidden = self.project(torch.cat(joined, -1))
        # Pixel shuffling takes the channels of a place apart into unfold x unfold places.
        return self.linear(self.blocks(F.pixel_shuffle(hidden.permute(0, 3, 1, 2), self.unfold)))
