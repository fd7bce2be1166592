"""Windows within which blocks attend, as groups of an attention pattern (ViTDet, Li et al. 2022, sec. 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fourm.errors import ConfigError

_NUM_GLOBAL = 4


def global_blocks(window: int, chosen: Sequence[int] | None, depth: int) -> frozenset[int]:
    """Blocks that attend globally.

    Args:
        window: tokens per side of a window; 0: all blocks are global.
        chosen: their numbers; None: four, evenly spaced, the last block among them.
        depth: number of blocks.

    Raises:
        ConfigError: if there is no such block.
    """
    if not window:
        return frozenset(range(depth))
    if chosen is None:
        count = min(_NUM_GLOBAL, depth)
        return frozenset(depth * (i + 1) // count - 1 for i in range(count))
    wrong = [block for block in chosen if not -depth <= block < depth]
    if wrong:
        raise ConfigError(f"global_blocks names block {wrong[0]}; the encoder has {depth}: 0 to {depth - 1}")
    return frozenset(block % depth for block in chosen)


def window_numbers(num_tokens: int, grids: Iterable[tuple[int, tuple[int, int]]], window: int) -> Tensor:
    """The window of each token.

    Tokens of several grids share the windows of the first; those without a place, registers and text, share one of
    their own.

    Args:
        num_tokens: length of the table.
        grids: (first column, (rows, columns)) of each grid, on the image as a whole.
        window: tokens per side, on the first grid.

    Returns:
        (1, num_tokens) int64 on the CPU.
    """
    numbers = torch.zeros(num_tokens, dtype=torch.int64, device="cpu")
    grids = list(grids)
    first = grids[0][1] if grids else (0, 0)
    across = -(-first[1] // window)
    for start, (rows, columns) in grids:
        row = (torch.arange(rows, device="cpu") * first[0]).div(rows, rounding_mode="floor") // window
        column = (torch.arange(columns, device="cpu") * first[1]).div(columns, rounding_mode="floor") // window
        numbers[start : start + rows * columns] = (1 + row[:, None] * across + column).flatten()
    return numbers[None]
