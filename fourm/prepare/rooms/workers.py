"""Rendering shards in several processes.

Each process is driven through its own pipe: it is sent one shard at a time and reports every room. If the parent dies,
the pipe breaks and the process ends by itself; if a process dies, the parent notices.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from fourm.errors import DataError
from fourm.prepare.rooms.classes import SOURCES


class ShardTask(NamedTuple):
    """Rooms start <= i < stop of a seed, as one shard."""

    out: Path
    shard: int
    start: int
    stop: int
    size: int
    seed: int


def render_shard(task: ShardTask, on_room: Callable[[], None]) -> None:
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
        for index in range(task.start, task.stop):
            writer.write(f"{index:06d}", sample(task.seed, index, task.size))
            on_room()


def render_shards(tasks: list[ShardTask], workers: int, on_room: Callable[[], None]) -> None:
    """Render shards in `workers` processes; in this one if that is enough.

    Raises:
        DataError: what a worker met, or that one was killed. Shards that others have finished stay.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            render_shard(task, on_room)
        return
    # spawn: a forked child would inherit the pipes of its siblings and never see them close.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each():
        started = [_start(context) for _ in range(min(workers, len(tasks)))]
    try:
        _drive(started, list(reversed(tasks)), on_room)
    finally:
        for _, pipe in started:
            pipe.close()
        for process, _ in started:
            process.join(5)
            if process.is_alive():
                process.terminate()
                process.join()


_Started = tuple[multiprocessing.process.BaseProcess, Connection]


def _start(context: multiprocessing.context.SpawnContext) -> _Started:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _drive(started: list[_Started], waiting: list[ShardTask], on_room: Callable[[], None]) -> None:
    """Hand out shards until none is left and every process is idle."""
    busy: dict[Connection, _Started] = {}
    for worker in started:
        worker[1].send(waiting.pop())
        busy[worker[1]] = worker
    while busy:
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            try:
                kind, message = pipe.recv()
            except (EOFError, OSError):
                code = busy[pipe][0].exitcode
                raise DataError(
                    f"a rendering process ended unexpectedly (exit code {code}; killed, perhaps out of memory). "
                    "Finished shards are kept: run the same command again, with fewer --workers if memory is short"
                ) from None
            if kind == "room":
                on_room()
            elif kind == "error":
                raise DataError(message)
            elif waiting:
                pipe.send(waiting.pop())
            else:
                del busy[pipe]


def _work(pipe: Connection) -> None:
    """The loop of one process: receive a shard, render it, say so."""
    # Broken pipe or end of file: the parent has gone, or wants no more.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        while True:
            task = pipe.recv()
            try:
                render_shard(task, lambda: pipe.send(("room", "")))
            except DataError as error:
                pipe.send(("error", str(error)))
            pipe.send(("done", ""))


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children started inside use one thread for array arithmetic."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
