"""Ending a run on request: the step is finished, a checkpoint saved, and the same command goes on later."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NOTED = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
_LOG = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """The run was asked to stop and did so cleanly; exit status 128 + signal.

    143 for SIGTERM, 138 for SIGUSR1 (what schedulers send before a time limit or a preemption), 130 for Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopRequest:
    """Notes SIGTERM, SIGUSR1 and SIGINT for the length of a `with` block. A second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _NOTED:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)
        # Signals often go to a whole process group. torch turns the death of a loader process into an exception at
        # whatever line runs, which would end the step or the save that is to be finished.
        if hasattr(signal, "SIGCHLD") and signal.SIGCHLD not in self._previous:
            self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _LOG.warning("%s: finishing the step and saving; once more ends at once", signal.Signals(number).name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
