"""What the machine computes with: devices by name, and which of them calculate in bfloat16 themselves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from fourm.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device of a name; `auto` is the first of cuda, mps and cpu that there is.

    Args:
        name: `auto`, or a name as torch writes it.
        local_rank: number of this process on its machine; `cuda` is the GPU of that number.

    Raises:
        ConfigError: for an unknown or missing device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is '{name}'; expected auto, cpu, cuda, cuda:N or mps") from None
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ConfigError(
            f"device is '{name}', which this machine or this build of torch does not have; use device: auto"
        )
    return torch.device("cuda", local_rank) if name == "cuda" else device


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices itself; elsewhere they are imitated, slower than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0)) or torch.version.hip is not None
    if device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(known.get(name)) for name in ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16"))


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto`: where the device does so itself."""
    return has_bf16(device) if precision == "auto" else precision == "bf16"
