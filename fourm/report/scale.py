"""What the colours of a map of measured values mean: depth, temperature, and the like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.modality import Modality

_RELATIVE = ((0.0, "near"), (1.0, "far"))
_MOST_DIGITS = 6


@dataclass(frozen=True)
class Scale:
    """From values to places on a ramp of colours.

    Args:
        ends: values at its ends, the same for every picture. None takes the 1st and 99th percentile of each picture
            (for depth without units).
        log: whether equal ratios, rather than equal differences, are equally far apart.
        colors: name of the colour map.
    """

    ends: tuple[float, float] | None
    log: bool = False
    colors: str = "inferno"

    @property
    def low(self) -> float:
        """The value at the lower end. A range from 0 has no logarithm: its first 64th is one colour then."""
        low, high = self.ends or (0.0, 1.0)
        return max(low, high / 64) if self.log else low

    @property
    def high(self) -> float:
        return self.ends[1] if self.ends is not None else 1.0

    def shares(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Places of values on the ramp, 0 at its lower end and 1 at its upper.

        Args:
            values: of one picture, of any shape; those that are not finite get any place.
        """
        known = np.isfinite(values)
        values = np.where(known, values, 0.0).astype(np.float64)
        if self.ends is None:
            low, high = np.percentile(values[known], [1, 99]) if known.any() else (0.0, 1.0)
            return np.asarray(np.clip((values - low) / max(high - low, 1e-9), 0, 1))
        values = np.clip(values, self.low, self.high)
        if self.log:
            return np.asarray(np.log(values / self.low) / max(np.log(self.high / self.low), 1e-9))
        return np.asarray((values - self.low) / max(self.high - self.low, 1e-9))

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Places on the ramp with what their colours mean: both ends, and about three numbers between them.

        The numbers have as few digits as leave them near even places.
        """
        if self.ends is None:
            return _RELATIVE
        even, extent = np.array([0.25, 0.5, 0.75]), self.high - self.low
        values = self.low * (self.high / self.low) ** even if self.log else self.low + extent * even
        values = np.where(np.abs(values) < 1e-9 * extent, 0.0, values)
        for digits in range(1, _MOST_DIGITS):
            rounded = np.array([float(f"{value:.{digits}g}") for value in values])
            if np.abs(self.shares(rounded) - even).max() <= 0.03:
                values = rounded
                break
        values = np.array([self.low, *values, self.high])
        return tuple((float(share), f"{value:g}") for share, value in zip(self.shares(values), values, strict=True))


def scale_of(modality: Modality) -> Scale:
    """The scale that suits the measured values of a modality.

    Depth, which is normalised by its logarithm or within each picture, is bright where it is near, and logarithmic in
    metres so that near things keep their detail. Of all else, such as temperatures, high values are bright.
    """
    if modality.normalization == "standardize":
        return Scale(None, colors="inferno_r")
    ends = modality.value_range or (0.0, 1.0)
    is_log = modality.normalization == "log" and ends[1] > 0
    return Scale(ends, is_log, "inferno_r" if is_log else "inferno")
