"""UPerNet (Xiao et al. 2018): pooling of the coarsest map at several scales, a top-down pyramid, all levels joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.transfer.backbone import Backbone
from fourm.transfer.head_configs import UPerNetConfig
from fourm.transfer.heads import Inputs, Present
from fourm.transfer.pyramid import NUM_LEVELS, conv_norm


class UPerNetHead(nn.Module):
    """Reads four maps. Norms are over channels, so that an output depends on no other sample.

    Raises:
        ConfigError: for tasks with one answer per image, or a backbone with another number of maps.
    """

    def __init__(self, config: UPerNetConfig, backbone: Backbone, num_outputs: int, dense: bool) -> None:
        super().__init__()
        if not dense:
            raise ConfigError("head.kind upernet gives maps; for one answer per image take linear or attentive")
        maps = NUM_LEVELS if backbone.pyramid is not None else len(backbone.out_layers or [0])
        if maps != NUM_LEVELS:
            raise ConfigError(
                f"head.kind upernet reads {NUM_LEVELS} maps, but the backbone gives {maps}: set backbone.pyramid to "
                f"simple, or backbone.out_layers to {NUM_LEVELS} blocks"
            )
        dim_in, dim = backbone.out_channels, config.dim
        self.bins = config.bins
        self.pooled = nn.ModuleList(_conv(dim_in, dim, 1) for _ in config.bins)
        self.bottleneck = _conv(dim_in + len(config.bins) * dim, dim, 3)
        self.lateral = nn.ModuleList(_conv(dim_in, dim, 1) for _ in range(maps - 1))
        self.smooth = nn.ModuleList(_conv(dim, dim, 3) for _ in range(maps - 1))
        self.join = _conv(maps * dim, dim, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.linear = nn.Conv2d(dim, num_outputs, 1)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs, h, w) at the size of the finest map."""
        *fine, coarse = backbone(inputs, present).values()
        pooled = [_resize(conv(F.adaptive_avg_pool2d(coarse, n)), coarse) for conv, n in zip(self.pooled, self.bins)]
        levels = [conv(x) for conv, x in zip(self.lateral, fine)]
        levels.append(self.bottleneck(torch.cat([coarse, *pooled], 1)))
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + _resize(levels[i + 1], levels[i])
        smooth = [conv(x) for conv, x in zip(self.smooth, levels)]
        joined = torch.cat([_resize(x, levels[0]) for x in [*smooth, levels[-1]]], 1)
        return self.linear(self.dropout(self.join(joined)))


def _conv(dim_in: int, dim_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(conv_norm(dim_in, dim_out, kernel), nn.ReLU())


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
