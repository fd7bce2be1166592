"""Rooms as shards, in one process or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fourm.prepare.rooms.classes import SOURCES
from fourm.workers import Work, run_tasks


class RoomShard(NamedTuple):
    """Rooms start <= i < stop of a seed, as one shard."""

    out: Path
    shard: int
    start: int
    stop: int
    size: int
    seed: int

    @property
    def keys(self) -> list[str]:
        return [f"{index:06d}" for index in range(self.start, self.stop)]


def render_shard(task: RoomShard, on_room: Callable[[], None]) -> None:
    """Render and publish one shard.

    Args:
        task: which one.
        on_room: called after each room.

    Raises:
        DataError: if it cannot be written.
    """
    from fourm.data.shards import ShardWriter
    from fourm.prepare.rooms.encode import sample

    with ShardWriter(task.out, task.shard, SOURCES) as writer:
        for index, key in enumerate(task.keys, task.start):
            writer.write(key, sample(task.seed, index, task.size))
            on_room()


def render_shards(tasks: list[RoomShard], workers: int, on_rooms: Callable[[int], None]) -> None:
    """Render shards in `workers` processes; see `run_tasks`."""
    run_tasks(_start, tasks, workers, on_rooms, "rendering process")


def _start(number: int) -> Work[RoomShard]:
    return render_shard
