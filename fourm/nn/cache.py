"""What an attention layer remembers between decoding steps."""

from __future__ import annotations

from torch import Tensor


class LayerCache:
    """Keys and values one attention layer has already computed, in memory that doubles when it is full."""

    def __init__(self) -> None:
        self.length = 0
        self._memory: tuple[Tensor, Tensor] | None = None

    @property
    def all(self) -> tuple[Tensor, Tensor] | None:
        """(B, H, length, d) keys and values so far; None before the first."""
        if self._memory is None:
            return None
        key, value = self._memory
        return key[:, :, : self.length], value[:, :, : self.length]

    def keep(self, length: int) -> None:
        """Forget all but the first tokens."""
        self.length = min(self.length, length)

    def select(self, rows: Tensor) -> None:
        """Keys and values of these samples."""
        if self._memory is not None:
            self._memory = (self._memory[0][rows], self._memory[1][rows])

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, n, d) keys and values and return all of them."""
        start, self.length = self.length, self.length + key.shape[2]
        if self._memory is None:
            # Heads side by side, as the products of single queries read them: else each of those copies all keys.
            self._memory = (key.contiguous(), value.contiguous())
            return self._memory
        if self.length > self._memory[0].shape[2]:
            self._memory = (_longer(self._memory[0], start, self.length), _longer(self._memory[1], start, self.length))
        for memory, new in zip(self._memory, (key, value), strict=True):
            memory[:, :, start : self.length] = new
        return self._memory[0][:, :, : self.length], self._memory[1][:, :, : self.length]


def _longer(memory: Tensor, used: int, least: int) -> Tensor:
    """Memory for twice as many tokens, or `least`, with those that are used."""
    b, heads, capacity, dim = memory.shape
    longer = memory.new_empty(b, heads, max(2 * capacity, least), dim)
    longer[:, :, :used] = memory[:, :, :used]
    return longer
