"""What the machine computes with: devices by name, and which of them calculate in bfloat16 themselves."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fourm.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Gpu:
    """What a kind of GPU can do, as its maker states it.

    Args:
        tflops: bfloat16 products without sparsity, in 10^12 operations per second (float16 where it has no bfloat16).
        memory_gib: of one.
    """

    tflops: float
    memory_gib: int


GPUS = {
    "v100": Gpu(125, 32),
    "a100": Gpu(312, 80),
    "h100": Gpu(989, 80),
    "h200": Gpu(989, 141),
    "gh200": Gpu(989, 96),
    "b200": Gpu(2250, 180),
    "l40s": Gpu(362, 48),
    "a10g": Gpu(70, 24),
    "rtx 4090": Gpu(165, 24),
    "rtx 3090": Gpu(71, 24),
    "mi250x": Gpu(191, 64),  # one of the two dies, which is a device of its own
    "mi300x": Gpu(1307, 192),
}
"""Kind, as it stands in the name of the device -> what it can do."""


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
    """This process's share: of the ranks that torchrun started or the tasks of a step that srun did, in each element of
    a SLURM array.

    Raises:
        ConfigError: if the numbers make no sense.
    """
    try:
        element, within = _array(), _rank()
        return Part(element.index * within.count + within.index, element.count * within.count)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"the environment names no share of the work: {error}. torchrun and SLURM set it") from None


def _rank() -> Part:
    if "RANK" in os.environ:
        return Part(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    # SLURM_NTASKS is there in a batch script too, which runs once and may start no other task.
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return Part(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"]))
    return WHOLE


def _array() -> Part:
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return WHOLE
    names = ("ID", "MIN", "MAX", "COUNT")
    index, least, most, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in names)
    step = (most - least) // max(1, count - 1) or 1
    if least + step * (count - 1) != most or (index - least) % step:
        raise ConfigError(
            f"the {count} elements of the SLURM array from {least} to {most} are not evenly spaced: give a range, "
            "--array=0-15"
        )
    return Part((index - least) // step, count)


def local_place() -> Part:
    """This process among those that torchrun or srun started on this machine."""
    environment = os.environ
    if "LOCAL_RANK" in environment:
        return Part(int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"]))
    if "SLURM_LOCALID" in environment and "SLURM_STEP_TASKS_PER_NODE" in environment:
        # `4(x2),3`: four tasks on each of two nodes, three on another one.
        most = max(int(part.partition("(")[0]) for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","))
        return Part(int(environment["SLURM_LOCALID"]), most)
    return WHOLE


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_processes(device: str = "auto") -> int:
    """Processes that keep this machine busy: one per GPU, or one per core. Does not import torch without need.

    Where torchrun or srun started several, it is this one's share. srun's tasks are bound to their own cores already.
    """
    place = local_place()
    if device.partition(":")[0] in ("auto", "cuda") and Path("/proc/driver/nvidia").exists():
        import torch

        if torch.cuda.is_available():
            return 1 if ":" in device else max(1, torch.cuda.device_count() // place.count)
    return max(1, num_cores() // (place.count if "LOCAL_RANK" in os.environ else 1))


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for what it allocates next, instead of handing it back.

    glibc takes every large block anew from the system, which clears its pages one by one: in a training step on CPU
    that was a fifth of the time. The process stays as large as it once was. Settings of the environment
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_MAX_ and the like, or GLIBC_TUNABLES) go before; other C libraries are left
    as they are.
    """
    settings = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if settings or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_max = -1, -4  # as <malloc.h> numbers them
    mallopt(trim_threshold, -1)  # never
    mallopt(mmap_max, 0)


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


def peak_tflops(device: torch.device) -> float | None:
    """What a device can do in bfloat16, in 10^12 operations per second; None where that is not known."""
    import torch

    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    kinds = [kind for kind in GPUS if kind in name]
    return GPUS[max(kinds, key=len)].tflops if kinds else None  # gh200 is no h200


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto`: where the device does so itself."""
    return has_bf16(device) if precision == "auto" else precision == "bf16"
