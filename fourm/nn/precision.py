"""The type that products are computed in."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """Type of a matrix product with (..., dim) features: autocast's where it is on."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leave autocast for a while."""
    if device.type == "meta":  # which knows no autocast
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
