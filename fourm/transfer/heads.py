"""Heads on the tokens of a backbone: one answer per sample, or a linear one per place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.nn.attention import Attention, AttentionMask, score_dtype
from fourm.tokens import AttentionPattern
from fourm.transfer.backbone import Backbone
from fourm.transfer.head_configs import AttentiveConfig, LinearConfig
from fourm.transfer.pyramid import ChannelNorm

Inputs = Mapping[str, Tensor]
Present = Mapping[str, Tensor] | None
_FIRST_STD = 0.01


class LinearHead(nn.Module):
    """A linear layer on the mean token."""

    def __init__(self, config: LinearConfig, backbone: Backbone, num_outputs: int) -> None:
        super().__init__()
        dim = backbone.num_features
        self.norm = nn.LayerNorm(dim, eps=1e-6) if config.norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(dim, num_outputs)
        nn.init.trunc_normal_(self.linear.weight, std=_FIRST_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs)."""
        return self.linear(self.dropout(self.norm(backbone.pooled(inputs, present))))


class LinearMapHead(nn.Module):
    """A linear layer on every place of the last map."""

    def __init__(self, config: LinearConfig, backbone: Backbone, num_outputs: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(backbone.out_channels, eps=1e-6) if config.norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Conv2d(backbone.out_channels, num_outputs, 1)
        nn.init.trunc_normal_(self.linear.weight, std=_FIRST_STD)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs, h, w); of a pyramid, the finest level."""
        maps = list(backbone(inputs, present).values())
        return self.linear(self.dropout(self.norm(maps[0 if backbone.pyramid is not None else -1])))


def linear(config: LinearConfig, backbone: Backbone, num_outputs: int, dense: bool) -> nn.Module:
    """The linear head for one answer, or for one per place."""
    return (LinearMapHead if dense else LinearHead)(config, backbone, num_outputs)


class AttentiveHead(nn.Module):
    """Learned queries attend to all tokens.

    Raises:
        ConfigError: for dense tasks, or a number of heads that does not divide the width.
    """

    def __init__(self, config: AttentiveConfig, backbone: Backbone, num_outputs: int, dense: bool) -> None:
        super().__init__()
        dim = backbone.num_features
        if dense:
            raise ConfigError(
                "head.kind attentive gives one answer per image; for maps take linear, convnext or upernet"
            )
        if dim % config.num_heads:
            raise ConfigError(f"head.num_heads is {config.num_heads}, which does not divide the width of {dim}")
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.queries = nn.Parameter(torch.randn(config.num_queries, dim) * 0.02)
        self.attention = Attention(dim, config.num_heads, cross=True)
        self.linear = nn.Linear(dim, num_outputs)
        nn.init.trunc_normal_(self.linear.weight, std=_FIRST_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs)."""
        tokens = backbone.embed(inputs, present)
        hidden = self.norm(backbone.encode(tokens))
        queries = self.queries.expand(len(hidden), -1, -1).to(hidden.dtype)
        pattern: AttentionPattern | None = None
        if tokens.valid is not None:
            everyone = torch.ones(queries.shape[:2], dtype=torch.bool, device=hidden.device)
            pattern = AttentionPattern.cross(everyone, tokens.valid)
        mask = AttentionMask.prepare(pattern, "auto", score_dtype(hidden))
        return self.linear(self.attention(queries, mask, hidden).mean(1))
