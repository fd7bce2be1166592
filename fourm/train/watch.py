"""A process that no longer gets on ends itself, with its reason, so that a scheduler can start the job again."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

from fourm.errors import TEMPORARY_FAILURE, FourmError, TrainingError
from fourm.train.distributed import World

_LOG = logging.getLogger(__name__)


class RankLostError(TrainingError):
    """Another rank has ended, or does not answer. The same command goes on from the newest checkpoint."""

    exit_status = TEMPORARY_FAILURE


def is_about_ranks(error: BaseException) -> bool:
    """Whether an error of torch tells of a connection between ranks."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset", "connection refused", "gloo", "nccl", "broken pipe")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def explain(error: Exception, world: World, step: int) -> Exception:
    """The error, or what another rank said of why it ended. The other ranks are told of this one's."""
    others = world.told()
    if isinstance(error, FourmError) or world.size == 1 or not (others or is_about_ranks(error)):
        world.tell(f"{type(error).__name__}: {error}")
        return error
    if others:
        said = "; ".join(f"rank {rank}: {reason}" for rank, reason in others.items())
        return RankLostError(f"another rank has ended after step {step}. {said}")
    return RankLostError(
        f"another rank does not answer after step {step} and left no word: it was killed, ran out of memory, or its "
        f"machine is gone ({str(error).partition(chr(10))[0]}). The same command goes on from the newest checkpoint"
    )


class Watch:
    """Ends this process with status 75 where something takes longer than it may: a read, a step, a save.

    What hangs is often a system call or another rank, which no exception reaches; so a thread looks after it.

    Args:
        minutes: the longest it may take; None: for ever.
        tell: is given the reason, for other ranks.
        end: ends the process.
    """

    def __init__(
        self, minutes: float | None, tell: Callable[[str], None], end: Callable[[int], object] = os._exit
    ) -> None:
        self._minutes, self._tell, self._end = minutes, tell, end
        self._doing: tuple[str, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if self._minutes is not None:
            self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def over(self, what: str) -> Iterator[None]:
        """What happens in a `with` block is looked after; `what` completes "for 30 minutes, this process has been"."""
        self._doing = (what, time.monotonic())
        try:
            yield
        finally:
            self._doing = None

    def _look(self) -> None:
        assert self._minutes is not None
        seconds = 60 * self._minutes
        while not self._over.wait(min(5.0, seconds / 4)):
            doing = self._doing
            if doing is not None and time.monotonic() - doing[1] > seconds:
                break
        else:
            return
        reason = f"for {self._minutes:g} minutes, this process has been {doing[0]}"
        _LOG.critical(
            "%s (train.timeout_minutes): it ends with status %d. The same command goes on from the newest checkpoint. "
            "Where it stands:",
            reason,
            TEMPORARY_FAILURE,
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        self._tell(reason)
        self._end(TEMPORARY_FAILURE)
