"""A U-Net on image patches, conditioned on a coarser map of vectors; its blocks are those of diffusers."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.nn.configs import UNetConfig, UViTConfig


class UNet(nn.Module):
    """Predicts noise or image from a noisy image, a timestep and a condition (4M, Mizrahi et al. 2023, sec. A.2).

    Patches of the image become channels, the condition is enlarged to their grid and put beside them; the network is
    the one of guided diffusion (Dhariwal and Nichol 2021). Every residual branch and the output start at zero.

    Args:
        config: sizes.
        channels: of the image.
        condition_dim: length of the condition's vectors.
    """

    def __init__(self, config: UNetConfig, channels: int, condition_dim: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.config = config
        folded = channels * config.patch_size**2
        levels = range(len(config.multipliers))
        attends = [level in config.attention_levels for level in levels]
        self.network: Any = UNet2DModel(
            in_channels=folded + condition_dim,
            out_channels=folded,
            block_out_channels=tuple(config.width * m for m in config.multipliers),
            layers_per_block=config.num_blocks,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=None,  # one head
            norm_num_groups=config.groups,
            dropout=config.dropout,
        )
        self._close_branches()

    @torch.no_grad()
    def _close_branches(self) -> None:
        for name, parameter in self.network.named_parameters():
            if ".conv2." in name or ".to_out." in name or name.startswith("conv_out."):
                parameter.zero_()

    def forward(self, noisy: Tensor, timestep: Tensor, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            noisy: (B, C, H, W).
            timestep: (B,) int64.
            condition: (B, d, h, w).
            keep: (B, h, w) bool, False where the condition is hidden; None shows all of it.

        Returns:
            (B, C, H, W).

        Raises:
            ConfigError: if the image does not divide into the network's levels.
        """
        check_size(noisy, self.config)
        if keep is not None:
            condition = condition * keep[:, None].to(condition.dtype)
        folded = F.pixel_unshuffle(noisy, self.config.patch_size)
        beside = F.interpolate(condition.to(folded.dtype), size=folded.shape[-2:], mode="nearest")
        predicted = self.network(torch.cat([folded, beside], 1), timestep, return_dict=False)[0]
        return F.pixel_shuffle(cast(Tensor, predicted), self.config.patch_size)


def check_size(image: Tensor, config: UNetConfig | UViTConfig) -> None:
    """Whether an image (B, C, H, W) divides into the levels of a network.

    Raises:
        ConfigError: if it does not.
    """
    height, width = image.shape[-2:]
    if height % config.stride or width % config.stride:
        raise ConfigError(
            f"an image of {height} x {width} pixels does not divide by the denoiser's {config.stride} (patch_size "
            f"{config.patch_size}, halved per level): use another size, a smaller patch_size or fewer levels"
        )
