"""Processes and devices: started from torchrun's environment, or one process without it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fourm.errors import FourmError
from fourm.machine import choose_device, keep_freed_memory, num_cores

T = TypeVar("T")
_A_WEEK = 7 * 24 * 60.0


@dataclasses.dataclass(frozen=True)
class World:
    """The processes that train together, and this one's place among them.

    What ranks tell each other on the host goes over gloo, also where gradients go over NCCL: it never waits for the
    device.

    Args:
        rank: of this process.
        size: number of processes.
        local_rank: of this process on its machine.
        local_size: number of processes on this machine.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the ranks, in place; the host does not wait for one of the device."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(torch.zeros(1))

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[no-any-return]

    def gather(self, values: list[T]) -> list[T]:
        """The values of all ranks, rank by rank."""
        if self.size == 1:
            return values
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]

    def tell(self, reason: str) -> None:
        """Leave word for the other ranks of why this one ends; where there is nobody left to keep it, it is lost."""
        if self.size > 1:
            with contextlib.suppress(Exception):
                _store().set(f"fourm/ended/{self.rank}", reason)

    def told(self) -> dict[int, str]:
        """Rank -> why it ended, of the others that have left word."""
        found = {}
        for rank in range(self.size) if self.size > 1 else ():
            with contextlib.suppress(Exception):
                if rank != self.rank and _store().check([key := f"fourm/ended/{rank}"]):
                    found[rank] = _store().get(key).decode()
        return found

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0. Its failure is raised on every rank, so that none is left waiting.

        Raises:
            FourmError: whatever `work` raised; on the other ranks an error of the same class and message.
        """
        if self.size == 1:
            return work()
        value: Any = None
        error: BaseException | None = None
        if self.is_main:
            try:
                value = work()
            except Exception as caught:
                error = caught
        kind, message, value = self.broadcast(
            (type(error) if isinstance(error, FourmError) else None, str(error), value)
        )
        if error is not None:
            raise error
        if kind is not None or message != "None":
            raise (kind or FourmError)(f"{message} (on rank 0)")
        return value  # type: ignore[no-any-return]


def _store() -> dist.Store:
    """What the ranks met at: it answers also where their connections are broken, and not, where its host is gone."""
    store = dist.distributed_c10d._get_default_store()
    store.set_timeout(datetime.timedelta(seconds=10))
    return store


def num_threads(configured: int | None, local_size: int) -> int:
    """CPU threads of one process, so that processes x threads = cores; a user's OMP_NUM_THREADS goes before that."""
    if configured is not None:
        return configured
    # torchrun sets OMP_NUM_THREADS=1 itself when it starts several processes, so there it is not the user's wish.
    if local_size == 1 and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return int(os.environ["OMP_NUM_THREADS"])
    return max(1, num_cores() // local_size)


def start(device: str = "auto", threads: int | None = None, *, timeout_minutes: float | None = 30) -> World:
    """Join the process group described by torchrun's environment (RANK, WORLD_SIZE, ...), or be alone.

    Args:
        device: `auto`, or a device name.
        threads: CPU threads of this process; None shares the cores.
        timeout_minutes: how long a rank waits for the others before it gives up; None: a week.

    Raises:
        ConfigError: for a device that is not there.
    """
    env = os.environ
    size = int(env.get("WORLD_SIZE", "1"))
    rank, local_rank = int(env.get("RANK", "0")), int(env.get("LOCAL_RANK", "0"))
    local_size = int(env.get("LOCAL_WORLD_SIZE", str(size)))
    world = World(rank, size, local_rank, local_size, choose_device(device, local_rank))
    torch.set_num_threads(num_threads(threads, local_size))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    elif world.device.type == "cpu":
        keep_freed_memory()
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=timeout_minutes or _A_WEEK))
    return world


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def session(device: str = "auto", threads: int | None = None, *, timeout_minutes: float | None = 30) -> Iterator[World]:
    """The process group for the length of a `with` block."""
    world = start(device, threads, timeout_minutes=timeout_minutes)
    try:
        yield world
    finally:
        stop()
