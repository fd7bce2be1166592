"""Residual-MLP encoder and decoder of feature vectors and poses (4M-21, Bachmann et al. 2024)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fourm.layouts import Grid
from fourm.tokenizers.network_configs import MLPConfig


class ResidualBlock(nn.Module):
    """x + fc2(gelu(fc1(norm x)))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class _ResidualMlp(nn.Module):
    """Linear, blocks, linear, at every place of a map by itself."""

    def __init__(self, config: MLPConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        hidden = round(config.mlp_ratio * config.width)
        self.linear_in = nn.Linear(channels_in, config.width)
        self.blocks = nn.Sequential(*[ResidualBlock(config.width, hidden) for _ in range(config.depth)])
        self.linear_out = nn.Linear(config.width, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return self.linear_out(self.blocks(self.linear_in(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Encoder(_ResidualMlp):
    """Vectors to features.

    Args:
        config: sizes.
        channels: length of the vectors.
        grid: places of the map; unused, since they are all treated alike.
    """

    def __init__(self, config: MLPConfig, channels: int, grid: Grid) -> None:
        super().__init__(config, channels, config.width)
        self.out_dim = config.width


class Decoder(_ResidualMlp):
    """Features to vectors.

    Args:
        config: sizes.
        channels: length of the vectors.
        grid: places of the map; unused.
    """

    def __init__(self, config: MLPConfig, channels: int, grid: Grid) -> None:
        super().__init__(config, config.width, channels)
        self.in_dim = config.width
