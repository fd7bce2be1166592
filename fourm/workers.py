"""Tasks done in several processes: one shard each.

Each process is driven through its own pipe: it is sent one task at a time, and reports every step and what the task
gave. If the parent dies, the pipe breaks and the process ends by itself. If a process dies, the parent starts another
one in its place and gives it the same task once more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from fourm import errors
from fourm.errors import DataError, FourmError

Task = TypeVar("Task")
Task_in = TypeVar("Task_in", contravariant=True)


class Work(Protocol[Task_in]):
    """What a process does for each task; what it returns has to be picklable."""

    def __call__(self, task: Task_in, on_step: Callable[[], None], /) -> object: ...


Start = Callable[[int], Work[Task]]
"""Makes the work of the process of a number. It has to be picklable, and is called in the process."""


def _ignore(task: Any, result: Any) -> None:
    pass


def run_tasks(
    start: Start[Task],
    tasks: Sequence[Task],
    workers: int,
    on_step: Callable[[int], None],
    what: str = "worker",
    on_done: Callable[[Task, Any], None] = _ignore,
) -> None:
    """Do all tasks in `workers` processes; in this one if that is enough.

    Args:
        start: makes what a process does.
        tasks: picklable, in the order in which they are handed out.
        workers: processes.
        on_step: called with the number of steps that were done, or, negative, that have to be done again.
        what: what a process is called in errors.
        on_done: called with each task and what it returned, in the order in which they end.

    Raises:
        FourmError: what a worker met; or that one was killed, twice with the same task. What others have finished
            stays.
    """
    if workers <= 1 or len(tasks) <= 1:
        work = start(0)
        for task in tasks:
            on_done(task, work(task, lambda: on_step(1)))
        return
    with _one_thread_each(), contextlib.ExitStack() as stack:
        crew = _Crew(start, list(reversed(tasks)), on_step, what, on_done)
        stack.callback(crew.stop)
        crew.run(min(workers, len(tasks)))


def error_of(kind: str, text: str) -> FourmError:
    """An error that another process met, from the name of its class and what it said."""
    found = getattr(errors, kind, FourmError)
    return found.__new__(found, text)  # type: ignore[no-any-return]  # not all classes are made from their text


class _Worker(Generic[Task]):
    """A process, and what it is doing."""

    # spawn: a forked child would inherit the pipes of its siblings and never see them close.
    _CONTEXT = multiprocessing.get_context("spawn")

    def __init__(self, start: Start[Task], number: int) -> None:
        self.number = number
        self.pipe, theirs = self._CONTEXT.Pipe()
        self.process = self._CONTEXT.Process(target=_work, args=(start, number, theirs), daemon=True)
        with _interrupts_ignored():  # Ctrl-C reaches all processes: this one hears it, and ends the others
            self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.steps = 0

    def give(self, task: Task) -> None:
        self.task, self.steps = task, 0
        with contextlib.suppress(BrokenPipeError):  # it has died since: the next look at its pipe tells
            self.pipe.send(task)

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


class _Crew(Generic[Task]):
    """The processes, and the tasks that wait."""

    def __init__(
        self,
        start: Start[Task],
        waiting: list[Task],
        on_step: Callable[[int], None],
        what: str,
        on_done: Callable[[Task, Any], None],
    ) -> None:
        self.start = start
        self.waiting = waiting
        self.on_step = on_step
        self.what = what
        self.on_done = on_done
        self.busy: dict[Connection, _Worker[Task]] = {}
        self.workers: list[_Worker[Task]] = []
        self.again: list[Task] = []

    def run(self, workers: int) -> None:
        for number in range(workers):
            self._hire(number, self.waiting.pop())
        while self.busy:
            for pipe in wait(list(self.busy)):
                assert isinstance(pipe, Connection)
                self._hear(self.busy[pipe])

    def _hire(self, number: int, task: Task) -> None:
        worker = _Worker(self.start, number)
        self.workers.append(worker)
        self.busy[worker.pipe] = worker
        worker.give(task)

    def _hear(self, worker: _Worker[Task]) -> None:
        try:
            kind, message = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        if kind == "step":
            worker.steps += 1
            self.on_step(1)
        elif kind == "error":
            raise error_of(*message)
        else:
            assert worker.task is not None
            self.on_done(worker.task, message)
            if self.waiting:
                worker.give(self.waiting.pop())
            else:
                del self.busy[worker.pipe]

    def _replace(self, worker: _Worker[Task]) -> None:
        """A process has ended unexpectedly: another one does its task, but not a third one."""
        worker.process.join(5)
        task = worker.task
        assert task is not None
        del self.busy[worker.pipe]
        if any(task is tried for tried in self.again):
            raise DataError(
                f"a {self.what} ended unexpectedly twice with the same shard (exit code {worker.process.exitcode}; "
                "killed, perhaps out of memory). Finished shards are kept: run the same command again, with fewer "
                "--workers if memory is short"
            )
        self.again.append(task)
        self.on_step(-worker.steps)
        self._hire(worker.number, task)

    def stop(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.stop()


def _work(start: Start[Any], number: int, pipe: Connection) -> None:
    """The loop of one process: receive a task, do it, say so."""
    # Broken pipe or end of file: the parent has gone, or wants no more.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        try:
            work = start(number)
            while True:
                result = work(pipe.recv(), lambda: pipe.send(("step", "")))
                pipe.send(("done", result))
        except FourmError as error:
            pipe.send(("error", (type(error).__name__, str(error))))


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Children started inside never see Ctrl-C, not even while they import."""
    if threading.current_thread() is not threading.main_thread():  # others may not change it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
