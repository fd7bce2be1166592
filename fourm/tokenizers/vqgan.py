"""Encoder and decoder of VQGAN (Esser et al. 2021), in the form of LVM's tokenizer (Bai et al. 2023)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from fourm.layouts import Grid
from fourm.tokenizers.network_configs import VQGANConfig

_EPS = 1e-6


class ResidualBlock(nn.Module):
    """shortcut(x) + conv(silu(norm(conv(silu(norm x))))), 3 x 3."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, _EPS)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels_out, _EPS)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H, W)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


class Attention(nn.Module):
    """x + self-attention of all places, with one head as wide as the map."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, _EPS)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        hidden = self.norm(x)
        q, k, v = (project(hidden).flatten(2).transpose(1, 2)[:, None] for project in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(seen[:, 0].transpose(1, 2).reshape(x.shape))


class Level(nn.Module):
    """Residual blocks at one size of the map, each followed by attention where the level has it, then a resize.

    Args:
        channels: of the input, and of each block's output.
        attends: whether attention follows each block.
        groups: of the norms.
        resize: what leads to the next level; None: nothing does.
    """

    def __init__(self, channels: list[int], attends: bool, groups: int, resize: nn.Module | None) -> None:
        super().__init__()
        steps = list(pairwise(channels))
        self.blocks = nn.ModuleList(ResidualBlock(before, after, groups) for before, after in steps)
        self.attentions = nn.ModuleList(Attention(after, groups) for _, after in steps if attends)
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels[0], H, W) -> (B, channels[-1], H', W')."""
        for n, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[n](x)
        return x if self.resize is None else self.resize(x)


class _Halve(nn.Conv2d):
    """3 x 3 convolution of stride 2; the map is padded on its right and lower side alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class _Double(nn.Conv2d):
    """Every place becomes 2 x 2 equal ones, then a 3 x 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Image to features, finest level first.

    Args:
        config: widths, depths and attention.
        channels: of the image.
        grid: tokens per side; unused, since convolutions fit every size.
    """

    def __init__(self, config: VQGANConfig, channels: int, grid: Grid) -> None:
        super().__init__()
        self.out_dim = config.latent_dim
        widths, last = config.widths, len(config.widths) - 1
        before = [config.stem_width or widths[0], *widths]
        self.conv_in = nn.Conv2d(channels, before[0], 3, padding=1)
        levels = []
        for n, width in enumerate(widths):
            columns = [before[n], *[width] * config.num_blocks]
            resize = _Halve(width) if n < last else None
            levels.append(Level(columns, n in config.attention_levels, config.groups, resize))
        self.levels = nn.ModuleList(levels)
        self.middle = _middle(config)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], _EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_dim, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, latent_dim, H / patch, W / patch)."""
        x = self.conv_in(image)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Features to image, coarsest level first; one block more per level than the encoder has.

    Args:
        config: widths, depths and attention.
        channels: of the image.
        grid: tokens per side; unused.
    """

    def __init__(self, config: VQGANConfig, channels: int, grid: Grid) -> None:
        super().__init__()
        self.in_dim = config.latent_dim
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.latent_dim, widths[-1], 3, padding=1)
        self.middle = _middle(config)
        levels = []  # numbered as the encoder's, finest first
        for n, width in enumerate(widths):
            columns = [widths[min(n + 1, last)], *[width] * (config.num_blocks + 1)]
            levels.append(Level(columns, n in config.attention_levels, config.groups, _Double(width) if n else None))
        self.levels = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(config.groups, widths[0], _EPS)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, latent_dim, h, w) -> (B, C, h * patch, w * patch)."""
        x = self.middle(self.conv_in(features))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def _middle(config: VQGANConfig) -> nn.Sequential:
    width, groups = config.widths[-1], config.groups
    attention = Attention(width, groups) if config.middle_attention else nn.Identity()
    return nn.Sequential(ResidualBlock(width, width, groups), attention, ResidualBlock(width, width, groups))
