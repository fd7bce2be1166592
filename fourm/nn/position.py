"""Position embeddings of grids and sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.modality import Grid, Sequence


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
    rows = _angles(_steps(height), dim // 2, temperature)
    columns = _angles(_steps(width), dim // 2, temperature)
    table = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    return table.reshape(height * width, dim).float()


def sincos_map(height: int, width: int, dim: int) -> Tensor:
    """(1, dim, height, width) sine-cosine table of a grid as a map of features; `resize_table` fits it to any size."""
    return sincos_2d(height, width, dim).T.reshape(1, dim, height, width).contiguous()


def resize_table(table: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """(1, dim, H, W) table -> (1, dim, height, width), by interpolation."""
    if table.shape[-2:] == (height, width):
        return table
    return F.interpolate(table, size=(height, width), mode=mode, align_corners=None if mode == "nearest" else False)


def sincos(layout: Grid | Sequence, dim: int) -> Tensor:
    """(num_positions, dim) sine-cosine table of a layout."""
    if isinstance(layout, Grid):
        return sincos_2d(layout.height, layout.width, dim)
    return sincos_1d(layout.num_positions, dim)


def _angles(position: Tensor, dim: int, temperature: float) -> Tensor:
    frequency = temperature ** (-_steps(dim // 2) / (dim // 2))
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.get_default_device())


def _steps(count: int) -> Tensor:
    """0, 1, 2, ... on the CPU; on the meta device `arange` would import the compiler, which takes seconds."""
    return torch.arange(count, dtype=torch.float64, device="cpu")
