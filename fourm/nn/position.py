"""Position embeddings of grids and sequences."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.layouts import Grid, Sequence, Slots
from fourm.nn.configs import TrunkConfig
from fourm.nn.init import fill_normal


def sincos_1d(length: int, dim: int, temperature: float = 10_000.0) -> Tensor:
    """Sine-cosine table of a sequence: sines in the first half of the channels, cosines in the second.

    Args:
        length: number of positions.
        dim: channels, a multiple of 2.

    Returns:
        (length, dim) float32; row n holds sin(n w_i) and cos(n w_i) with w_i = temperature ** (-2 i / dim).
    """
    return _angles(_steps(length), dim, temperature).float()


def sincos_2d(height: int, width: int, dim: int, temperature: float = 10_000.0) -> Tensor:
    """Sine-cosine table of a grid, row by row: the first half of the channels encodes the row, the second the column.

    This is the order the published 4M checkpoints hold for square grids.

    Args:
        height: rows.
        width: columns.
        dim: channels, a multiple of 4.

    Returns:
        (height * width, dim) float32.
    """
    return sincos_places(_steps(height), _steps(width), dim, temperature)


def sincos_places(
    rows: Tensor, columns: Tensor, dim: int, temperature: float = 10_000.0, *, columns_first: bool = False
) -> Tensor:
    """The table of `sincos_2d` at any places, also between those of a grid.

    Args:
        rows: (H,) float64.
        columns: (W,) float64.
        dim: channels, a multiple of 4.
        columns_first: the first half of the channels encodes the column, as in MAE and AIM.

    Returns:
        (H * W, dim) float32.
    """
    shape = (len(rows), len(columns), dim // 2)
    halves = [
        _angles(rows, dim // 2, temperature)[:, None].expand(shape),
        _angles(columns, dim // 2, temperature)[None].expand(shape),
    ]
    return torch.cat(halves[::-1] if columns_first else halves, dim=-1).reshape(-1, dim).float()


def fitted_places(count: int, trained: int) -> Tensor:
    """(count,) float64 places of tokens that cover a side on which a model was trained with `trained` tokens."""
    return (_steps(count) + 0.5) * (trained / count) - 0.5


def sincos_map(height: int, width: int, dim: int) -> Tensor:
    """(1, dim, height, width) sine-cosine table of a grid as a map of features; `resize_table` fits it to any size."""
    return sincos_2d(height, width, dim).T.reshape(1, dim, height, width).contiguous()


def resize_table(table: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """(1, dim, H, W) table -> (1, dim, height, width), by interpolation."""
    if table.shape[-2:] == (height, width):
        return table
    return F.interpolate(table, size=(height, width), mode=mode, align_corners=None if mode == "nearest" else False)


class Rotary(NamedTuple):
    """Rotary position embeddings (Su et al. 2021), ready for the heads of all blocks.

    Args:
        cos, sin: (N, head_dim) float32; both halves of the channels hold the same angles.
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, position: Tensor, head_dim: int, theta: float) -> Rotary:
        """Those of (N,) float32 places: channel i turns by place * theta ** (-2 i / head_dim)."""
        exponent = places(0, head_dim // 2, position.device) / (head_dim // 2)
        angle = position[:, None] * (1.0 / theta**exponent)
        angle = torch.cat([angle, angle], dim=-1)
        return cls(angle.cos(), angle.sin())

    def turn(self, x: Tensor) -> Tensor:
        """(B, H, N, head_dim) queries or keys -> the same, turned; channel i with channel i + head_dim / 2."""
        first, second = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-second, first], dim=-1) * self.sin).to(x.dtype)


class RelativeBias(nn.Module):
    """Biases of causal self-attention by distance (T5, Raffel et al. 2020, sec. 2.1, as in its decoder).

    Args:
        config: of the trunk, whose `relative_buckets` and `relative_distance` count.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.buckets, self.distance = cast(int, config.relative_buckets), config.relative_distance
        self.std = config.dim**-0.5
        self.weight = nn.Parameter(torch.empty(self.buckets, config.num_heads))

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw them."""
        fill_normal(self.weight, generator, self.std)

    def forward(self, length: int, start: int = 0) -> Tensor:
        """(1, H, length, start + length): of queries at places `start` and on, to all keys up to the last of them."""
        device = self.weight.device
        back = places(start, length, device)[:, None] - places(0, start + length, device)[None]
        return self.weight[relative_bucket(back, self.buckets, self.distance)].permute(2, 0, 1)[None]


def relative_bucket(back: Tensor, buckets: int, distance: int) -> Tensor:
    """The bucket of tokens that lie so far back.

    The first half of the buckets are single steps b = 0, 1, ... h - 1; from h on they are
    h + (buckets - h) * log(b / h) / log(distance / h), up to the last. What comes later is taken for the token itself.

    Args:
        back: whole numbers of any shape, as float32.

    Returns:
        int64, of the same shape.
    """
    half = buckets // 2
    back = back.clamp(min=0)
    grown = half + ((back.clamp(min=1) / half).log() / math.log(distance / half) * (buckets - half)).trunc()
    return torch.where(back < half, back, grown.clamp(max=buckets - 1)).long()


def places(start: int, length: int, device: torch.device) -> Tensor:
    """(length,) float32 start, start + 1, ...; on the meta device `arange` would import the compiler."""
    return torch.ones(length, device=device).cumsum(0) + (start - 1)


def sincos(layout: Grid | Sequence | Slots, dim: int, *, columns_first: bool = False) -> Tensor:
    """(num_positions, dim) sine-cosine table of a layout; see `sincos_places`."""
    if isinstance(layout, Grid):
        return sincos_places(_steps(layout.height), _steps(layout.width), dim, columns_first=columns_first)
    return sincos_1d(layout.num_positions, dim)


def _angles(position: Tensor, dim: int, temperature: float) -> Tensor:
    frequency = temperature ** (-_steps(dim // 2) / (dim // 2))
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.get_default_device())


def _steps(count: int) -> Tensor:
    """0, 1, 2, ... on the CPU; on the meta device `arange` would import the compiler, which takes seconds."""
    return torch.arange(count, dtype=torch.float64, device="cpu")
