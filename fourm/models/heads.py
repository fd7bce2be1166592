"""Heads that predict vectors: pixels of a patch, features of a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.layouts import Continuous
from fourm.modality import Modality
from fourm.models.configs import LinearHeadConfig, MlpHeadConfig
from fourm.nn.configs import TrunkConfig
from fourm.nn.position import sincos
from fourm.nn.trunk import Mlp


class LinearHead(nn.Module):
    """One linear layer.

    Args:
        modality: what is predicted, a continuous one.
        dim: width of the hidden states.
        config: whether there is a bias.
    """

    def __init__(self, modality: Modality, dim: int, config: LinearHeadConfig) -> None:
        super().__init__()
        size = modality.content.dim if isinstance(modality.content, Continuous) else 0
        self.linear = nn.Linear(dim, size, bias=config.bias)

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        """Predict.

        Args:
            hidden: (n, dim) hidden states of the tokens that ask.
            position: (n,) their places in the modality of what they read.

        Returns:
            (n, content.dim) vectors.
        """
        return self.linear(hidden)


class MlpHead(nn.Module):
    """The head of AIM (El-Nouby et al. 2024, sec. 3.2): blocks of MLPs token by token, thrown away after pretraining.

    Arguments as for `LinearHead`.
    """

    positions: Tensor

    def __init__(self, modality: Modality, dim: int, config: MlpHeadConfig) -> None:
        super().__init__()
        self.modality, self.dim = modality, config.dim
        self.project = nn.Linear(dim, config.dim)
        self.register_buffer("positions", torch.empty(modality.num_tokens, config.dim), persistent=False)
        self.blocks = nn.ModuleList(_MlpBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.linear = nn.Linear(config.dim, modality.content.dim if isinstance(modality.content, Continuous) else 0)

    def fill_tables(self) -> None:
        """Compute the positions, as those of the trunk."""
        columns_first = self.modality.positions == "sincos_xy"
        self.positions = sincos(self.modality.layout, self.dim, columns_first=columns_first)

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        """(n, dim) hidden states and (n,) places -> (n, content.dim)."""
        x = self.project(hidden)
        x = x + F.embedding(position.clamp(max=len(self.positions) - 1), self.positions).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.linear(self.norm(x))


class _MlpBlock(nn.Module):
    """x += norm1 x;  x += mlp(norm2 x): a block of the trunk whose attention is the identity, as the published training
    computes it. The paper tells of the second step alone.
    """

    def __init__(self, config: MlpHeadConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.norm_eps) if config.residual_norm else None
        self.norm2 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = Mlp(TrunkConfig(config.dim, 1, 1, mlp_ratio=config.mlp_ratio, mlp_bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) -> (n, dim)."""
        if self.norm1 is not None:
            x = x + self.norm1(x)
        return x + self.mlp(self.norm2(x))
