"""From what a network puts out to natural units: colours in [0, 1], metres, unit normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.modality import COLOUR_STATISTICS, Modality


def to_natural(values: Tensor, modality: Modality) -> Tensor:
    """Undo a modality's normalization.

    Args:
        values: (B, C, H, W) normalised, as a decoder puts them out.
        modality: a raw, continuous image modality.

    Returns:
        (B, C, H, W) float32 within the modality's value range; normals have length 1. Depth standardised per image has
        lost its scale, and stays standardised; masks, a teacher's features, and values without normalization and range
        stay as they are.

    Raises:
        ConfigError: if the normalization needs a value range and there is none.
    """
    values = values.float()
    if modality.decode == "normal":
        return F.normalize(values, dim=1)
    is_features = modality.teacher is not None and values.shape[1] != modality.channels
    if is_features or modality.normalization in ("standardize", "mask"):
        return values
    if modality.normalization == "none":
        return values if modality.value_range is None else values.clamp(*modality.value_range)
    low, high = _value_range(modality)
    if modality.normalization == "half":
        natural = low + (values + 1) / 2 * (high - low)
    elif modality.normalization == "log":
        natural = torch.exp(math.log(low) + (values + 1) / 2 * (math.log(high) - math.log(low)))
    else:
        statistics = COLOUR_STATISTICS[modality.normalization]
        mean, std = (values.new_tensor(numbers).view(1, -1, 1, 1) for numbers in statistics)
        natural = values * std + mean
    return natural.clamp(low, high)


def _value_range(modality: Modality) -> tuple[float, float]:
    if modality.value_range is None and modality.decode in ("image", "gray"):
        return 0.0, 1.0
    if modality.value_range is None:
        raise ConfigError(
            f"modality '{modality.name}' has normalization '{modality.normalization}' but no value_range: add one"
        )
    return modality.value_range
