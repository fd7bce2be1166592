"""Vision-transformer encoder and decoder of image tokenizers (4M, Mizrahi et al. 2023, sec. A.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.layouts import Grid
from fourm.nn.configs import TrunkConfig
from fourm.nn.patches import PatchConv2d
from fourm.nn.position import resize_table, sincos_map
from fourm.nn.precision import full_precision
from fourm.nn.trunk import Trunk
from fourm.tokenizers.network_configs import ViTConfig


class _Blocks(nn.Module):
    """Position table, transformer blocks, and the MLP behind them, which autocast leaves in float32."""

    pos_emb: Tensor

    def __init__(self, config: ViTConfig, grid: Grid) -> None:
        super().__init__()
        trunk = TrunkConfig(
            dim=config.dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            activation=config.activation,
            activation_checkpointing=config.activation_checkpointing,
        )
        height, width = (config.grid_size, config.grid_size) if config.grid_size else (grid.height, grid.width)
        self.register_buffer("pos_emb", sincos_map(height, width, config.dim))
        self.trunk = Trunk(trunk)
        self.trunk.norm = nn.Identity()  # the published networks go from the last block into `norm_mlp`
        self.norm_mlp = nn.LayerNorm(config.dim, eps=trunk.norm_eps) if config.post_mlp else None
        self.post_mlp = PostMlp(config.dim, trunk.mlp_dim) if config.post_mlp else None

    def forward(self, features: Tensor) -> Tensor:
        """(B, dim, h, w) -> (B, h * w, dim)."""
        height, width = features.shape[-2:]
        positions = resize_table(self.pos_emb, height, width).to(features.dtype)
        x = self.trunk((features + positions).flatten(2).transpose(1, 2), attention=None)
        if self.post_mlp is None or self.norm_mlp is None:
            return x
        with full_precision(x.device):
            x = x.to(self.norm_mlp.weight.dtype)
            return x + self.post_mlp(self.norm_mlp(x))


class PostMlp(nn.Module):
    """fc2(tanh(fc1 x)), the MLP behind the blocks of ViT-VQGAN (Yu et al. 2022)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.fc2(torch.tanh(self.fc1(x)))


class ConvNextBlock(nn.Module):
    """x + gamma * fc2(gelu(fc1(norm(depthwise 7 x 7 of x)))) (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        hidden = self.gamma * self.pwconv2(F.gelu(self.pwconv1(hidden)))
        return x + hidden.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """Image to features.

    Args:
        config: sizes.
        channels: of the image.
        grid: tokens per side the network is made for.
    """

    def __init__(self, config: ViTConfig, channels: int, grid: Grid) -> None:
        super().__init__()
        self.out_dim = config.dim
        self.proj = PatchConv2d(channels, config.dim, config.patch_size)
        self.blocks = _Blocks(config, grid)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_dim, H / patch, W / patch)."""
        features = self.proj(image)
        return self.blocks(features).transpose(1, 2).reshape(features.shape)


class Decoder(nn.Module):
    """Features to image.

    Args:
        config: sizes.
        channels: of the image.
        grid: tokens per side the network is made for.
    """

    def __init__(self, config: ViTConfig, channels: int, grid: Grid) -> None:
        super().__init__()
        self.in_dim = config.dim
        self.patch_size = config.patch_size
        self.blocks = _Blocks(config, grid)
        self.out_proj = nn.Linear(config.dim, channels * config.patch_size**2)
        self.out_conv = nn.Sequential(*[ConvNextBlock(channels) for _ in range(config.output_blocks)])

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_dim, h, w) -> (B, C, h * patch, w * patch)."""
        patches = self.out_proj(self.blocks(features)).transpose(1, 2)
        image = F.pixel_shuffle(patches.reshape(len(patches), -1, *features.shape[-2:]), self.patch_size)
        return self.out_conv(image)
