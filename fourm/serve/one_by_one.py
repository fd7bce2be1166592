"""One request at a time, told step by step, which ends when nobody listens any more."""

from __future__ import annotations

import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from fourm.errors import FourmError
from fourm.generate.bundle import Bundle

_log = logging.getLogger(__name__)
_Order = TypeVar("_Order")

_PATIENCE = 20.0
"""Seconds without a listener after which work ends: browsers close, lines break, and nobody tells."""


class Stopped(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True)
class Busy:
    """Work goes on.

    Args:
        target: being generated; None: not begun.
        number: of this target, from 0.
        total: targets.
    """

    target: str | None
    number: int
    total: int


@dataclass(frozen=True)
class Answer:
    """One target is done.

    Args:
        name: as asked.
        pictures: a png file per sample, which vanishes as those of `Finished`.
        texts: one per sample, for what is text.
    """

    name: str
    pictures: list[Path]
    texts: list[str]


@dataclass(frozen=True)
class Finished:
    """All is done.

    Args:
        sheet: everything in one labelled picture, a png file; None: there is none.
        files: what `fourm generate` writes, and `answers.zip` with all of it first. They vanish once the listener goes
            on.
        pictures: name -> a png file per answer, where they are others than those told before: of ensembles.
        texts: one per answer in words, where none were told before.
    """

    sheet: Path | None
    files: list[Path]
    pictures: dict[str, list[Path]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


News = Busy | Answer | Finished


@dataclass
class Line:
    """Between one listener and the work for it."""

    news: queue.Queue[News | BaseException] = field(default_factory=queue.Queue)
    cut: bool = False
    heard: float = field(default_factory=time.monotonic)

    def check(self, *_: object) -> None:
        """Raise `Stopped` if nobody listens; also a hook in front of a network."""
        if self.cut or time.monotonic() - self.heard > _PATIENCE:
            raise Stopped


class OneByOne(Generic[_Order]):
    """Works with one model, on one request after the other. Subclasses say what the work is.

    Args:
        bundle: model and tokenizers, on their device.
        folder: where results lie until they were sent.
        bf16: compute in bfloat16.
    """

    def __init__(self, bundle: Bundle, folder: Path, *, bf16: bool = False) -> None:
        self.bundle, self.folder, self.bf16 = bundle, folder, bf16
        self._turn = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a generation is running."""
        return self._turn.locked()

    def follow(self, request: _Order, beat: float = 0.5) -> Iterator[News]:
        """Do what a request asks and tell how it goes.

        Closing the iterator ends the work before the next pass through the model.

        Args:
            request: checked.
            beat: seconds between signs of life while a step takes long.

        Raises:
            FourmError: for whatever is wrong with the request, or went wrong here.
        """
        line = Line()
        out = Path(tempfile.mkdtemp(dir=self.folder))
        threading.Thread(target=self._work, args=(request, out, line), name="generate", daemon=True).start()
        busy = Busy(None, 0, self.count(request))
        try:
            yield busy
            while True:
                line.heard = time.monotonic()
                try:
                    news = line.news.get(timeout=beat)
                except queue.Empty:
                    news = busy
                if isinstance(news, BaseException):
                    raise news
                busy = news if isinstance(news, Busy) else busy
                yield news
                if isinstance(news, Finished):
                    return
        finally:
            line.cut = True
            shutil.rmtree(out, ignore_errors=True)

    def count(self, request: _Order) -> int:
        """Targets of a request."""
        raise NotImplementedError

    def generate(self, request: _Order, out: Path, line: Line) -> None:
        """Do it, with files in a folder, and tell the news; the last is that all is done."""
        raise NotImplementedError

    @property
    def networks(self) -> Sequence[nn.Module | None]:
        """Before every pass through one of these it is seen whether somebody still listens."""
        return self.bundle.model.encoder, self.bundle.model.decoder

    def _work(self, request: _Order, out: Path, line: Line) -> None:
        """The thread of one request; whatever happens here, the server goes on."""
        try:
            while not self._turn.acquire(timeout=0.1):
                line.check()
            try:
                with _watched(self.networks, line):
                    self.generate(request, out, line)
            finally:
                self._turn.release()
        except (Stopped, FourmError) as error:
            line.news.put(error)
        except BaseException as error:
            if not line.cut:  # else its files have been taken away
                _log.exception("a request failed")
            line.news.put(FourmError(f"the server could not do this ({type(error).__name__}); its log says more"))
        finally:
            if line.cut:
                shutil.rmtree(out, ignore_errors=True)


@contextmanager
def _watched(networks: Sequence[nn.Module | None], line: Line) -> Iterator[None]:
    """Look before every pass through one of the networks whether somebody still listens."""
    hooks = [network.register_forward_pre_hook(line.check) for network in networks if network is not None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
