"""Heads on the tokens of a backbone: one answer per sample, or a linear one per place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.nn.attention import Attention, AttentionMask, attend
from fourm.nn.precision import product_dtype
from fourm.patterns import AttentionPattern
from fourm.transfer.backbone import Backbone
from fourm.transfer.head_configs import AttentiveConfig, LinearConfig
from fourm.transfer.maps import Tokens
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


def attentive(config: AttentiveConfig, backbone: Backbone, num_outputs: int, dense: bool) -> nn.Module:
    """The attentive head of a form.

    Raises:
        ConfigError: for dense tasks, or a number of heads that does not divide the width.
    """
    dim, heads = backbone.num_features, config.num_heads or backbone.model_config.num_heads
    if dense:
        raise ConfigError("head.kind attentive gives one answer per image; for maps take linear, convnext or upernet")
    if dim % heads:
        raise ConfigError(f"head.num_heads is {heads}, which does not divide the width of {dim}")
    return (PlainAttentiveHead if config.form == "aim" else AttentiveHead)(dim, heads, config.num_queries, num_outputs)


class AttentiveHead(nn.Module):
    """Learned queries attend to all tokens.

    Args:
        dim: width of the tokens.
        num_heads: of the attention.
        num_queries: whose outputs are averaged.
        num_outputs: of the linear layer.
    """

    def __init__(self, dim: int, num_heads: int, num_queries: int, num_outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.queries = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.attention = Attention(dim, num_heads, cross=True)
        self.linear = nn.Linear(dim, num_outputs)
        nn.init.trunc_normal_(self.linear.weight, std=_FIRST_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs)."""
        tokens = backbone.embed(inputs, present)
        hidden = self.norm(backbone.encode(tokens))
        queries = self.queries.expand(len(hidden), -1, -1).to(hidden.dtype)
        return self.linear(self.attention(queries, _mask(tokens, hidden, len(self.queries)), hidden).mean(1))


class PlainAttentiveHead(nn.Module):
    """The probe of AIM (El-Nouby et al. 2024, sec. 4): learned queries attend to tokens that the batch normalises.

    Arguments as for `AttentiveHead`.
    """

    def __init__(self, dim: int, num_heads: int, num_queries: int, num_outputs: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.BatchNorm1d(dim, eps=1e-6, affine=False)
        self.queries = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.linear = nn.Linear(dim, num_outputs, bias=False)
        nn.init.trunc_normal_(self.linear.weight, std=_FIRST_STD)

    def forward(self, backbone: Backbone, inputs: Inputs, present: Present) -> Tensor:
        """(B, num_outputs)."""
        tokens = backbone.embed(inputs, present)
        hidden = backbone.encode(tokens)
        if tokens.valid is None:
            hidden = self.norm(hidden.flatten(0, 1)).view_as(hidden)
        else:  # padding is no part of the statistics
            normed = self.norm(hidden[tokens.valid])
            hidden = torch.zeros_like(hidden, dtype=normed.dtype).masked_scatter(tokens.valid[..., None], normed)
        key, value = self.key(hidden), self.value(hidden)
        queries = self.queries.expand(len(hidden), -1, -1)
        heads = [x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (queries, key, value)]
        out = attend(heads[0], heads[1], heads[2], _mask(tokens, hidden, len(self.queries)))
        return self.linear(out.transpose(1, 2).flatten(2).mean(1))


def _mask(tokens: Tokens, hidden: Tensor, num_queries: int) -> AttentionMask:
    """Every query sees all tokens that there are."""
    pattern: AttentionPattern | None = None
    if tokens.valid is not None:
        everyone = torch.ones((len(hidden), num_queries), dtype=torch.bool, device=hidden.device)
        pattern = AttentionPattern.cross(everyone, tokens.valid)
    return AttentionMask.prepare(pattern, "auto", product_dtype(hidden))
