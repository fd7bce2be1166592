"""Convolutional encoder and decoder: a folding stem, levels of residual blocks, and a mirror of both."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fourm.layouts import Grid
from fourm.nn.patches import PatchConv2d, PatchConvTranspose2d
from fourm.tokenizers.network_configs import ConvConfig


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm x))))), 3 x 3; it starts as the identity."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        hidden = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(hidden)))


def _blocks(width: int, count: int, groups: int) -> list[nn.Module]:
    return [ResidualBlock(width, groups) for _ in range(count)]


class Encoder(nn.Module):
    """Image to features, finest level first.

    Args:
        config: widths, depths and stem.
        channels: of the image.
        grid: tokens per side; unused, since convolutions fit every size.
    """

    def __init__(self, config: ConvConfig, channels: int, grid: Grid) -> None:
        super().__init__()
        self.out_dim = config.widths[-1]
        layers: list[nn.Module] = [PatchConv2d(channels, config.widths[0], config.stem)]
        for level, (width, count) in enumerate(zip(config.widths, config.num_blocks)):
            if level:
                layers.append(PatchConv2d(config.widths[level - 1], width, 2))
            layers += _blocks(width, count, config.groups)
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_dim, H / patch, W / patch)."""
        return self.layers(image)


class Decoder(nn.Module):
    """Features to image, coarsest level first.

    Args:
        config: widths, depths and stem.
        channels: of the image.
        grid: tokens per side; unused.
    """

    def __init__(self, config: ConvConfig, channels: int, grid: Grid) -> None:
        super().__init__()
        self.in_dim = config.widths[-1]
        layers: list[nn.Module] = []
        for level in reversed(range(len(config.widths))):
            width = config.widths[level]
            layers += _blocks(width, config.num_blocks[level], config.groups)
            if level:
                layers.append(PatchConvTranspose2d(width, config.widths[level - 1], 2))
        layers += [nn.GroupNorm(config.groups, config.widths[0]), nn.ReLU()]
        layers.append(PatchConvTranspose2d(config.widths[0], channels, config.stem))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_dim, h, w) -> (B, C, h * patch, w * patch)."""
        return self.layers(features)
