"""What the machine computes with: devices by name, and which of them calculate in bfloat16 themselves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fourm.errors import ConfigError

if TYPE_CHECKING:
    import torch

_SLURM_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP")

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Part:
    """A share of numbered work that needs no agreement with those who do the rest.

    Args:
        index: which share, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"part {self.index} of {self.count}; expected a number from 0 to {self.count - 1}")

    def has(self, number: int) -> bool:
        """Whether a piece of work belongs to this share."""
        return number % self.count == self.index


WHOLE = Part()
"""All of the work."""


def part_from_environment() -> Part:
    """This process's share as torchrun says, or SLURM: its array, the tasks of one job, or both together.

    Raises:
        ConfigError: if the numbers make no sense.
    """
    environment = os.environ
    try:
        if "RANK" in environment:
            return Part(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
        task, tasks = int(environment.get("SLURM_PROCID", 0)), int(environment.get("SLURM_NTASKS", 1))
        if _SLURM_ARRAY[0] not in environment:
            return Part(task, tasks)
        index, least, count, step = (
            int(environment.get(name, d)) for name, d in zip(_SLURM_ARRAY, ("0", "0", "1", "1"))
        )
        return Part((index - least) // step * tasks + task, count * tasks)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the environment names no share of the work: {error}; expected what torchrun or SLURM set"
        ) from None


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_processes(device: str = "auto") -> int:
    """Processes that keep this machine busy: one per GPU, or one per core. Does not import torch without need."""
    if device.partition(":")[0] in ("auto", "cuda") and Path("/proc/driver/nvidia").exists():
        import torch

        if torch.cuda.is_available():
            return 1 if ":" in device else torch.cuda.device_count()
    return num_cores()


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
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if name == "cuda" else device


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
