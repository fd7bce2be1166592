"""The token table of one sample, put together modality by modality."""

from __future__ import annotations

import numpy as np

from fourm.errors import DataError
from fourm.modality import Modality
from fourm.tokens import PADDING, TokenRow


class TableBuilder:
    """Collects the columns of one sample's token table, modality by modality.

    Args:
        full: all tokens see one another. Otherwise grids see themselves and what came before, sequences are causal.
        separate: each modality is an attention group of its own.
    """

    def __init__(self, *, full: bool = False, separate: bool = False) -> None:
        self.full, self.separate = full, separate
        self.indices: list[int] = []
        self.ends: list[int] = [0]
        self.causal: list[bool] = []
        self.columns: list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]] = []
        self.values: dict[str, np.ndarray] = {}

    def add(
        self,
        index: int,
        position: np.ndarray,
        *,
        ids: np.ndarray | None = None,
        target_ids: np.ndarray | None = None,
        name: str = "",
        values: np.ndarray | None = None,
        causal: bool = False,
    ) -> None:
        """Append the tokens of one modality.

        Args:
            index: number of the modality.
            position: (n,) places in its position table.
            ids: (n,) ids read; None: a mask or a vector stands there.
            target_ids: (n,) ids asked; None: nothing is asked.
            name: of the modality, where it has `values`.
            values: (n, dim) vectors read.
            causal: a token sees itself and what came before, instead of the whole modality.
        """
        length = len(position)
        if length == 0:
            return
        self.indices.append(index)
        self.ends.append(self.ends[-1] + length)
        self.causal.append(causal)
        self.columns.append((position, ids, target_ids))
        if values is not None:
            self.values[name] = values

    def build(self) -> TokenRow:
        """The finished table."""
        length = self.ends[-1]
        steps = np.arange(1, length + 1)
        modality, position, reach = np.empty(length, np.int64), np.empty(length, np.int64), np.full(length, length)
        ids, target_ids = np.full(length, PADDING, np.int64), np.full(length, PADDING, np.int64)
        start = 0
        for index, end, causal, (places, read, asked) in zip(self.indices, self.ends[1:], self.causal, self.columns):
            modality[start:end] = index
            position[start:end] = places
            if read is not None:
                ids[start:end] = read
            if asked is not None:
                target_ids[start:end] = asked
            if causal:
                reach[start:end] = steps[start:end]
            elif not self.full:
                reach[start:end] = end
            start = end
        group = modality if self.separate else np.zeros(length, np.int64)
        return TokenRow(modality, position, ids, target_ids, reach, group, self.values, self._runs())

    def _runs(self) -> tuple[tuple[int, bool], ...] | None:
        if self.full:
            return ((self.ends[-1], False),) if self.ends[-1] else ()
        if not self.separate:
            return None
        return tuple((end - start, causal) for start, end, causal in zip(self.ends, self.ends[1:], self.causal))


def select_patches(image: np.ndarray, modality: Modality, positions: np.ndarray) -> np.ndarray:
    """(C, H, W) image -> (n, p * p * C) patches at the given places, each as (row, column, channel).

    Raises:
        DataError: if the image has another size than the modality says.
    """
    grid = modality.grid
    p = grid.patch_size
    if image.shape != (modality.channels, *grid.image_size):
        raise DataError(
            f"modality '{modality.name}': an image has shape {image.shape}; "
            f"expected {(modality.channels, *grid.image_size)}"
        )
    blocks = image.reshape(-1, grid.height, p, grid.width, p).transpose(1, 3, 2, 4, 0)
    return blocks[positions // grid.width, positions % grid.width].reshape(len(positions), p * p * len(image))
