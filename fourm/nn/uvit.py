"""A U-Net whose coarsest level is a transformer (Hoogeboom et al. 2023); its convolutional blocks are diffusers'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.nn.attention import Attention, AttentionMask
from fourm.nn.configs import TrunkConfig, UViTConfig
from fourm.nn.patches import PatchConv2d, PatchConvTranspose2d
from fourm.nn.position import resize_table, sincos_map
from fourm.nn.precision import product_dtype
from fourm.nn.trunk import Mlp
from fourm.nn.unet import check_size
from fourm.patterns import AttentionPattern


class UViT(nn.Module):
    """Predicts noise or image from a noisy image, a timestep and a condition; 4M-21's decoder of 1,024 codes.

    The condition enters the transformer: added to its tokens, or as what they attend to. Every residual branch and the
    output start at zero.

    Args:
        config: sizes.
        channels: of the image.
        condition_dim: length of the condition's vectors.
    """

    def __init__(self, config: UViTConfig, channels: int, condition_dim: int) -> None:
        super().__init__()
        from diffusers.models.downsampling import Downsample2D
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps
        from diffusers.models.unets.unet_2d_blocks import DownBlock2D, UpBlock2D
        from diffusers.models.upsampling import Upsample2D

        self.config = config
        first, last = config.widths[0], config.widths[-1]
        time_dim = 4 * first
        self.conv_in = PatchConv2d(channels, first, config.patch_size)
        self.time_proj: Any = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding: Any = TimestepEmbedding(first, time_dim)

        levels = range(len(config.widths))
        common: dict[str, Any] = {"temb_channels": time_dim, "resnet_eps": 1e-5, "resnet_groups": config.groups}
        finer = [config.widths[max(level - 1, 0)] for level in levels]
        coarser = [config.widths[min(level + 1, levels[-1])] for level in levels]
        self.down_blocks: Any = nn.ModuleList(
            DownBlock2D(
                finer[level],
                config.widths[level],
                num_layers=config.num_blocks,
                add_downsample=level != levels[-1],
                **common,
            )
            for level in levels
        )
        self.up_blocks: Any = nn.ModuleList(
            UpBlock2D(
                finer[level],
                coarser[level],
                config.widths[level],
                num_layers=config.num_blocks + 1,
                add_upsample=level != 0,
                **common,
            )
            for level in reversed(levels)
        )
        if config.halve_again:
            self.downsample: Any = Downsample2D(last, use_conv=True, name="op")
            self.upsample: Any = Upsample2D(last, use_conv=True)
        self.middle = _Middle(config, last, condition_dim, time_dim)
        self.conv_norm_out = nn.GroupNorm(config.groups, first, eps=1e-5)
        self.conv_out = PatchConvTranspose2d(first, channels, config.patch_size)
        self._close_branches()

    @torch.no_grad()
    def _close_branches(self) -> None:
        for name, parameter in self.named_parameters():
            if ".conv2." in name or ".gate." in name or name.startswith("conv_out."):
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
            ConfigError: if the image does not divide into the network's tokens.
        """
        check_size(noisy, self.config)
        time = self.time_embedding(self.time_proj(timestep).to(noisy.dtype))
        x = self.conv_in(noisy)
        skips = [x]
        for block in self.down_blocks:
            x, outputs = block(x, time)
            skips += outputs
        if self.config.halve_again:
            x = self.downsample(x)
        x = self.middle(x, time, condition, keep)
        if self.config.halve_again:
            x = self.upsample(x)
        for block in self.up_blocks:
            count = len(block.resnets)
            x = block(x, tuple(skips[-count:]), time)
            del skips[-count:]
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class _Middle(nn.Module):
    """The transformer: a map of features in and out, with the condition on the way."""

    pos_emb: Tensor

    def __init__(self, config: UViTConfig, width: int, condition_dim: int, time_dim: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("pos_emb", sincos_map(config.grid_size, config.grid_size, config.dim))
        self.proj_in = nn.Linear(width, config.dim)
        self.proj_out = nn.Linear(config.dim, width)
        self.adds = config.conditioning == "add"
        if self.adds:
            self.cond_proj = nn.Linear(condition_dim, config.dim)
            self.mask_token = nn.Parameter(torch.zeros(config.dim))
        context_dim = None if self.adds else condition_dim
        half = config.depth // 2
        self.blocks = nn.ModuleList(
            AdaptiveBlock(config, time_dim, context_dim, skip=config.long_skips and index > half)
            for index in range(config.depth)
        )

    def forward(self, features: Tensor, time: Tensor, condition: Tensor, keep: Tensor | None) -> Tensor:
        """(B, width, H, W) -> the same; the rest as in `UViT`."""
        height, width = features.shape[-2:]
        x = self.proj_in(features.flatten(2).transpose(1, 2))
        context, cross_mask = None, None
        if self.adds:
            x = x + self._condition_tokens(condition, keep, (height, width)).to(x.dtype)
        else:
            context = condition.flatten(2).transpose(1, 2)
            shown = torch.ones_like(context[..., 0], dtype=torch.bool) if keep is None else keep.flatten(1)
            everywhere = torch.ones_like(x[..., 0], dtype=torch.bool)
            cross_mask = AttentionMask.prepare(AttentionPattern.cross(everywhere, shown), "auto", product_dtype(x))
        # The two published forms of the network resize their tables differently.
        table = resize_table(self.pos_emb, height, width, "bicubic" if self.adds else "nearest")
        x = x + table.flatten(2).transpose(1, 2).to(x.dtype)
        mask = AttentionMask.prepare(None, "auto", product_dtype(x))
        outputs: list[Tensor] = []
        for block in self.blocks:
            x = block(x, time, mask, context, cross_mask, outputs.pop() if block.skip is not None else None)
            if self.config.long_skips and len(outputs) < self.config.depth // 2 and block.skip is None:
                outputs.append(x)
        return self.proj_out(x).transpose(1, 2).unflatten(2, (height, width))

    def _condition_tokens(self, condition: Tensor, keep: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(B, H * W, dim) projected condition, with the learned token where it is hidden."""
        fitted = F.interpolate(condition, size=size, mode="nearest")
        tokens = self.cond_proj(fitted.flatten(2).transpose(1, 2))
        if keep is None:
            return tokens
        shown = F.interpolate(keep[:, None].float(), size=size, mode="nearest").flatten(2).transpose(1, 2) > 0.5
        return torch.where(shown, tokens, self.mask_token.to(tokens.dtype))


class AdaptiveBlock(nn.Module):
    """A transformer block steered by the timestep (adaLN-Zero, Peebles and Xie 2023).

    For each branch f: x += gate * f(norm(x) * (1 + scale) + shift), where gate, scale and shift are linear in the
    embedded timestep.

    Args:
        config: sizes.
        time_dim: length of the embedded timestep.
        context_dim: width of what is attended to between self-attention and MLP; None: nothing.
        skip: whether the block also reads an earlier output.
    """

    def __init__(
        self, config: UViTConfig, time_dim: int, context_dim: int | None = None, *, skip: bool = False
    ) -> None:
        super().__init__()
        dim, heads = config.dim, config.num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        if context_dim is not None:
            self.query_norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(context_dim)
            self.cross_attn = Attention(dim, heads, cross=True, context_dim=context_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(TrunkConfig(dim, config.depth, heads, mlp_ratio=config.mlp_ratio))
        self.num_branches = 2 if context_dim is None else 3
        self.modulation = nn.Linear(time_dim, 2 * self.num_branches * dim)
        self.gate = nn.Linear(time_dim, self.num_branches * dim)
        self.skip = nn.Linear(2 * dim, dim) if skip else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        mask: AttentionMask,
        context: Tensor | None = None,
        cross_mask: AttentionMask | None = None,
        earlier: Tensor | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: (B, N, dim).
            time: (B, time_dim).
            mask: of the self-attention.
            context: (B, K, context_dim), for blocks with cross-attention.
            cross_mask: of the cross-attention.
            earlier: (B, N, dim) output of an earlier block, for blocks with a skip.

        Returns:
            (B, N, dim).
        """
        if self.skip is not None and earlier is not None:
            x = self.skip(torch.cat([x, earlier], dim=-1))
        steer = F.silu(time)[:, None]
        gates = iter(self.gate(steer).chunk(self.num_branches, dim=-1))
        moves = iter(self.modulation(steer).chunk(2 * self.num_branches, dim=-1))

        def steered(normed: Tensor) -> Tensor:
            shift, scale = next(moves), next(moves)
            return normed * (1 + scale) + shift

        x = x + next(gates) * self.dropout(self.attn(steered(self.norm1(x)), mask))
        if context is not None and cross_mask is not None:
            attended = self.cross_attn(steered(self.query_norm(x)), cross_mask, self.context_norm(context))
            x = x + next(gates) * self.dropout(attended)
        return x + next(gates) * self.dropout(self.mlp(steered(self.norm2(x))))
