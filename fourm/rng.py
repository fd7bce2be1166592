"""Counter-based randomness: every draw is a pure function of a key, never of what was drawn before.

Workers, ranks, resumed runs and batches of any size therefore see the same randomness for the same sample.
"""

from __future__ import annotations

import hashlib
import math
import operator
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_WORD = 2**64 - 1
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed 64-bit integer
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_STEP = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15


def key_hash(*key: SupportsIndex | str) -> int:
    """A 128-bit integer that depends on every part of `key` and on their order and types."""
    # Each part with its length: ("ab",) and ("a", "b") never read the same. Numpy's integers count as integers.
    parts = [f"s{len(part)}:{part}" if isinstance(part, str) else f"i{operator.index(part)}" for part in key]
    text = "\x1f".join(parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*key: SupportsIndex | str) -> np.random.Generator:
    """A numpy generator (Philox, counter-based) for `key`, for instance `generator(seed, "masks", epoch, n)`."""
    return np.random.Generator(np.random.Philox(_Key(key_hash(*key))))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """A key in the place of a seed: `Philox(key=...)` gives the same, but asks the system for entropy it never uses."""

    def __init__(self, key: int) -> None:
        self.words = np.array([key & _WORD, key >> 64], np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """The two words of the key, which is all that Philox asks for."""
        return self.words


def torch_seed(*key: SupportsIndex | str) -> int:
    """A seed for `torch.Generator.manual_seed` that depends on every part of `key`."""
    return key_hash(*key) & 0x7FFF_FFFF_FFFF_FFFF


def uniform(seeds: torch.Tensor, *counters: torch.Tensor | int) -> torch.Tensor:
    """Uniform draws in the open interval (0, 1), one per combination of seed and counters.

    Each number passes through the splitmix64 finaliser (Steele et al. 2014) before the next one enters, so that seeds
    and counters play different parts: (seed 3, step 1) shares nothing with (seed 1, step 3).

    Args:
        seeds: int64, broadcastable with the counters; typically (B, 1).
        counters: int64 tensors or integers, for instance the step and the positions (B, N).

    Returns:
        float32 tensor of the broadcast shape. It depends on nothing but its arguments: not on the batch size, the
        device or the order.
    """
    return _open_interval(_hash(seeds, counters) >> 41)


def normal(seeds: torch.Tensor, *counters: torch.Tensor | int) -> torch.Tensor:
    """Standard normal draws (Box and Muller 1958), keyed as those of `uniform`.

    Args:
        seeds: int64, broadcastable with the counters.
        counters: int64 tensors or integers.

    Returns:
        float32 tensor of the broadcast shape, within +-5.8.
    """
    bits = _hash(seeds, counters)  # 64 of them, enough for both numbers a draw needs
    radius, angle = _open_interval(bits >> 41), _open_interval(bits >> 18)
    return radius.log_().mul_(-2.0).sqrt_() * angle.mul_(2.0 * math.pi).cos_()


def _hash(seeds: torch.Tensor, counters: tuple[torch.Tensor | int, ...]) -> torch.Tensor:
    """64 random bits per combination of seed and counters."""
    import torch

    state = _mix(seeds.to(torch.int64))
    for counter in counters:
        state = _mix(state ^ torch.as_tensor(counter, device=seeds.device, dtype=torch.int64))
    return state


def _open_interval(bits: torch.Tensor) -> torch.Tensor:
    """The lowest 23 bits as a number in (0, 1)."""
    import torch

    return (bits & 0x7F_FFFF).to(torch.float32).add_(0.5).mul_(2.0**-23)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = x + _STEP
    x = (x ^ (x >> 30 & 0x3_FFFF_FFFF)) * _MIX_1
    x = (x ^ (x >> 27 & 0x1F_FFFF_FFFF)) * _MIX_2
    return x ^ (x >> 31 & 0x1_FFFF_FFFF)
