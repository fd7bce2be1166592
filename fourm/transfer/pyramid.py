"""The simple feature pyramid of ViTDet (Li et al. 2022, sec. 3): maps of four strides from those of one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

NUM_LEVELS = 4


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


def conv_norm(dim_in: int, dim_out: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the size, and a norm."""
    conv = nn.Conv2d(dim_in, dim_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, ChannelNorm(dim_out, eps=1e-6))


def rescale(dim: int, level: int) -> tuple[nn.Module, int]:
    """What makes level 0 (4 times as large), 1 (twice), 2 (the same) or 3 (half) of a map, and its channels."""
    if level == 0:
        up = nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)
        again = nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2)
        return nn.Sequential(up, ChannelNorm(dim // 2, eps=1e-6), nn.GELU(), again), dim // 4
    if level == 1:
        return nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), dim // 2
    return (nn.Identity(), dim) if level == 2 else (nn.MaxPool2d(2, ceil_mode=True), dim)


class SimplePyramid(nn.Module):
    """Maps at strides patch / 4, patch / 2, patch and 2 * patch.

    Args:
        dim: channels of the map of the encoder.
        out_channels: of every map.
    """

    def __init__(self, dim: int, out_channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(NUM_LEVELS):
            scale, channels = rescale(dim, level)
            self.levels.append(
                nn.Sequential(scale, conv_norm(channels, out_channels, 1), conv_norm(out_channels, out_channels, 3))
            )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One (B, dim, h, w), or one for each level -> four (B, out_channels, H, W), finest first."""
        maps = list(maps) * NUM_LEVELS if len(maps) == 1 else maps
        return [level(x) for level, x in zip(self.levels, maps)]
