"""Work for the page: one generation at a time, told step by step, which ends when nobody listens any more."""

from __future__ import annotations

import json
import logging
import queue
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from fourm.errors import FourmError
from fourm.generate.answer import follow, read_all, shown_by
from fourm.generate.bundle import Bundle
from fourm.generate.chain import Answers, sample_seeds
from fourm.generate.inputs import GivenValue, find_given, give
from fourm.generate.natural import take, take_bytes
from fourm.generate.overview import pictures
from fourm.generate.planning import plan_for
from fourm.generate.reading import read_bytes, read_text
from fourm.modality import Modality
from fourm.serve.request import Request

_log = logging.getLogger(__name__)

_SMALL = 256
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
        sheet: everything in one labelled picture, a png file.
        pictures: name -> a png file per answer, where they are others than those told before: of ensembles.
        files: what `fourm generate` writes, and `answers.zip` with all of it first. They vanish once the listener goes
            on.
    """

    sheet: Path
    files: list[Path]
    pictures: dict[str, list[Path]] = field(default_factory=dict)


News = Busy | Answer | Finished


@dataclass
class _Line:
    """Between one listener and the work for it."""

    news: queue.Queue[News | BaseException] = field(default_factory=queue.Queue)
    cut: bool = False
    heard: float = field(default_factory=time.monotonic)

    def check(self, *_: object) -> None:
        """Raise `Stopped` if nobody listens; also a hook in front of a network."""
        if self.cut or time.monotonic() - self.heard > _PATIENCE:
            raise Stopped


class Worker:
    """Generates with one model, one request after the other.

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

    def follow(self, request: Request, beat: float = 0.5) -> Iterator[News]:
        """Do what a request asks and tell how it goes.

        Closing the iterator ends the work before the next pass through the model.

        Args:
            request: checked.
            beat: seconds between signs of life while a step takes long.

        Raises:
            FourmError: for whatever is wrong with the request, or went wrong here.
        """
        line = _Line()
        out = Path(tempfile.mkdtemp(dir=self.folder))
        threading.Thread(target=self._work, args=(request, out, line), name="generate", daemon=True).start()
        busy = Busy(None, 0, len(request.targets))
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

    def _work(self, request: Request, out: Path, line: _Line) -> None:
        """The thread of one request; whatever happens here, the server goes on."""
        try:
            while not self._turn.acquire(timeout=0.1):
                line.check()
            try:
                with _watched(self.bundle, line):
                    self._generate(request, out, line)
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

    def _generate(self, request: Request, out: Path, line: _Line) -> None:
        bundle = self.bundle
        plan, names, kept = plan_for(bundle, request.targets, request.given, request.known, None)
        if request.guidance is not None:
            plan = replace(plan, steps=[replace(step, guidance=request.guidance) for step in plan.steps])
        values = read_all(bundle, request.given, request.known, kept, read_value)
        label, shown = {target: name for name, target in names.items()}, shown_by(bundle, plan, names)
        order = list(plan.targets)
        done: Answers = {}

        def tell(target: str, answers: Any) -> None:
            done[label[target]] = answers
            line.news.put(_answer(values, done, shown, out))
            line.check()
            if len(done) < len(order):
                line.news.put(Busy(label[order[len(done)]], len(done), len(order)))

        line.news.put(Busy(label[order[0]], 0, len(order)))
        seeds = sample_seeds(request.seed, request.num_samples)
        results = follow(
            bundle, values, plan, names, seeds, request.num_samples, ensemble=request.ensemble, bf16=self.bf16,
            batch_size=len(seeds), watch=tell,
        )  # fmt: skip
        paths = results.write(out)
        drawn = pictures(results.given, results, shown, results.uncertainty) if request.ensemble else {}
        last = {name: _write(found, out, f"last_{n}") for n, (name, found) in enumerate(drawn.items())}
        line.news.put(Finished(out / "grid.png", [_pack(out, paths), *paths], last))


def read_value(bundle: Bundle, name: str, content: bytes | str, known: bytes | str | None = None) -> GivenValue:
    """A value of a request as the model reads it, from the content of a file or from text. Opens no file.

    Args:
        bundle: model and tokenizers.
        name: of the modality.
        content: the file, or the text.
        known: the file of a mask, or `some`; see `fourm.generate.natural.take`.

    Raises:
        FourmError: if it is damaged, or of another kind.
    """
    if isinstance(content, bytes):
        if known is None:
            return read_bytes(bundle, name, content, f"given {name}")
        return take_bytes(bundle, name, content, known)
    modality, _ = find_given(bundle, name)
    # The name of a modality stands where a path could, so that a text such as `secrets.json` opens no file.
    value = read_text(Path(name), content, modality)
    return give(bundle, name, value) if known is None else take(bundle, name, value, known)


def _answer(values: list[GivenValue], done: Answers, shown: Mapping[str, Modality], folder: Path) -> Answer:
    """The last of what is done, drawn as in the picture of all: boxes on the photograph, in the colours of the map."""
    name, found = list(done.items())[-1]
    is_written = isinstance(found, list) and not any(hasattr(value, "shape") for value in found)
    texts = [value if isinstance(value, str) else _as_text(value) for value in found] if is_written else []
    return Answer(name, _write(pictures(values, done, shown)[name], folder, f"shown_{len(done)}"), texts)


def _write(drawn: Sequence[Image.Image], folder: Path, stem: str) -> list[Path]:
    paths = [folder / f"{stem}_{number}.png" for number in range(len(drawn))]
    for path, picture in zip(paths, drawn, strict=True):
        _enlarged(picture).save(path)
    return paths


def _enlarged(picture: Image.Image) -> Image.Image:
    """Small maps by whole pixels, so that they stay what they are."""
    times = max(1, _SMALL // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _as_text(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False)


def _short(value: Any) -> Any:
    """To read, not to compute with; the files hold all digits."""
    if isinstance(value, Mapping):
        return {str(key): _short(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _pack(folder: Path, paths: list[Path]) -> Path:
    packed = folder / "answers.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return packed


@contextmanager
def _watched(bundle: Bundle, line: _Line) -> Iterator[None]:
    """Look before every pass through the encoder or decoder whether somebody still listens."""
    networks = (bundle.model.encoder, bundle.model.decoder)
    hooks = [network.register_forward_pre_hook(line.check) for network in networks if network is not None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
