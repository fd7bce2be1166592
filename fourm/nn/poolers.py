"""Poolers: the vectors of a tower to as many as a model reads of an image."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.nn.init import fill_normal
from fourm.nn.trunk import Trunk
from fourm.nn.vision_configs import (
    AveragePoolerConfig,
    LinearPoolerConfig,
    MlpPoolerConfig,
    ResamplerConfig,
    ShufflePoolerConfig,
)
from fourm.patterns import AttentionPattern


class Features(NamedTuple):
    """What a pooler reads.

    Args:
        dim: length of a vector.
        grid: (rows, columns) of the patches.
        num_extra: tokens before them.
    """

    dim: int
    grid: tuple[int, int]
    num_extra: int = 0

    @property
    def num_tokens(self) -> int:
        return self.num_extra + self.grid[0] * self.grid[1]


class LinearPooler(nn.Module):
    """Token by token, one linear layer.

    Args:
        features: what it reads.
        num_tokens: vectors that it makes, those of the tower.
        dim: their length.
        config: whether there is a bias.

    Raises:
        ConfigError: if the tower makes another number of tokens.
    """

    def __init__(self, features: Features, num_tokens: int, dim: int, config: LinearPoolerConfig) -> None:
        super().__init__()
        _check_count("linear", features, features.num_tokens, num_tokens)
        self.linear = nn.Linear(features.dim, dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, P, features.dim) -> (n, P, dim)."""
        return self.linear(x)


class MlpPooler(nn.Module):
    """Token by token, linear layers with GELU between them; arguments as for `LinearPooler`."""

    def __init__(self, features: Features, num_tokens: int, dim: int, config: MlpPoolerConfig) -> None:
        super().__init__()
        _check_count("mlp", features, features.num_tokens, num_tokens)
        widths = [features.dim] + [dim] * config.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(n, P, features.dim) -> (n, P, dim)."""
        return _perceive(self.layers, x)


class AveragePooler(nn.Module):
    """Means over squares of the map.

    Args:
        features: what it reads.
        num_tokens: squares.
        dim: length of a vector, that of the tower.
        config: nothing.

    Raises:
        ConfigError: if the map has no such squares, there are tokens that are no patches, or the lengths differ.
    """

    def __init__(self, features: Features, num_tokens: int, dim: int, config: AveragePoolerConfig) -> None:
        super().__init__()
        _check_map("average", features)
        if dim != features.dim:
            raise ConfigError(
                f"pooler average keeps the {features.dim} numbers of the tower's vectors, but content.dim is {dim}: "
                f"set it to {features.dim}, and projection to true where the model reads another number"
            )
        self.grid, (rows, columns) = features.grid, features.grid
        self.side = max(math.isqrt(rows * columns // max(num_tokens, 1)), 1)
        fits = not rows % self.side and not columns % self.side
        if not fits or (rows // self.side) * (columns // self.side) != num_tokens:
            sides = [s for s in range(1, min(rows, columns) + 1) if not rows % s and not columns % s]
            possible = ", ".join(str(rows // s * (columns // s)) for s in sides)
            raise ConfigError(
                f"pooler average makes {possible} tokens of a map of {rows} x {columns}, not {num_tokens}: change "
                "layout.num_tokens"
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, P, dim) -> (n, num_tokens, dim)."""
        maps = x.transpose(1, 2).unflatten(2, self.grid)
        return F.avg_pool2d(maps, self.side).flatten(2).transpose(1, 2)


class ShufflePooler(nn.Module):
    """Squares of the map side by side, and linear layers.

    Args:
        features: what it reads.
        num_tokens: squares.
        dim: length of the vectors it makes.
        config: its squares, and layers.

    Raises:
        ConfigError: if the map has another number of squares, or there are tokens that are no patches.
    """

    def __init__(self, features: Features, num_tokens: int, dim: int, config: ShufflePoolerConfig) -> None:
        super().__init__()
        _check_map("shuffle", features)
        self.grid, self.config = features.grid, config
        rows, columns = (-(-side // config.factor) for side in features.grid)
        _check_count(f"shuffle of factor {config.factor}", features, rows * columns, num_tokens)
        wide, width = features.dim * config.factor**2, features.dim * config.factor
        self.norm = nn.LayerNorm(wide, eps=config.norm_eps)
        self.squeeze = nn.Linear(wide, width) if config.squeeze else None
        self.squeeze_norm = nn.LayerNorm(width, eps=config.norm_eps) if config.squeeze else None
        self.layers = nn.ModuleList([nn.Linear(width if config.squeeze else wide, dim), nn.Linear(dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(n, P, features.dim) -> (n, num_tokens, dim)."""
        x = self.norm(side_by_side(x.unflatten(1, self.grid), self.config.factor, self.config.order))
        if self.squeeze is not None and self.squeeze_norm is not None:
            x = self.squeeze_norm(F.gelu(self.squeeze(x)))
        return _perceive(self.layers, x)


def side_by_side(maps: Tensor, factor: int, order: str) -> Tensor:
    """The vectors of squares of a map as one: (n, h, w, d) -> (n, squares, factor^2 * d).

    Args:
        maps: padded with zeros at the bottom and on the right where its sides do not divide.
        factor: places per side; within a square they follow one another row by row.
        order: of the squares: by `rows` or `columns`.
    """
    rows, columns = (-(-side // factor) for side in maps.shape[1:3])
    maps = F.pad(maps, (0, 0, 0, columns * factor - maps.shape[2], 0, rows * factor - maps.shape[1]))
    squares = maps.unflatten(2, (columns, factor)).unflatten(1, (rows, factor))  # (n, rows, f, columns, f, d)
    first, second = (1, 3) if order == "rows" else (3, 1)
    return squares.permute(0, first, second, 2, 4, 5).flatten(3).flatten(1, 2)


class Resampler(nn.Module):
    """Learned queries that attend to the tower's tokens (Emu's C-Former, Sun et al. 2024; VL-GPT, Zhu et al. 2023).

    Args:
        features: what it reads.
        num_tokens: queries.
        dim: length of the vectors it makes.
        config: of its trunk.
    """

    def __init__(self, features: Features, num_tokens: int, dim: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.empty(num_tokens, config.dim))
        self.input_norm = nn.LayerNorm(features.dim, eps=1e-6) if config.input_norm else nn.Identity()
        other = None if features.dim == config.dim else features.dim
        self.trunk = Trunk(replace(config, context_dim=other))
        self.linear = nn.Linear(config.dim, dim)

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the queries."""
        fill_normal(self.queries, generator, self.config.query_std)

    def forward(self, x: Tensor) -> Tensor:
        """(n, P, features.dim) -> (n, num_tokens, dim); with `causal`, vector i knows nothing of later queries."""
        queries = self.queries.expand(len(x), -1, -1).to(x.dtype)
        pattern = None
        if self.config.causal:
            pattern = AttentionPattern.causal(torch.ones(queries.shape[:2], dtype=torch.bool, device=x.device))
        hidden = cast(Tensor, self.trunk(queries, attention=pattern, context=self.input_norm(x)))
        return self.linear(hidden)


def _perceive(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Linear layers with GELU between them."""
    for number, layer in enumerate(layers):
        x = layer(x if number == 0 else F.gelu(x))
    return x


def _check_count(kind: str, features: Features, made: int, wanted: int) -> None:
    rows, columns = features.grid
    if made != wanted:
        raise ConfigError(
            f"pooler {kind} makes {made} tokens of the tower's {features.num_tokens} (a map of {rows} x {columns}), "
            f"not {wanted}: set layout.num_tokens to {made}, or choose another pooler; a resampler makes any number"
        )


def _check_map(kind: str, features: Features) -> None:
    if features.num_extra:
        raise ConfigError(
            f"pooler {kind} pools a map, but the tower has tokens beside it: set tower.class_token to false"
        )
