"""The processes of a stage: commands side by side, each with its share of the cores."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fourm import recipes
from fourm.errors import ConfigError, FourmError
from fourm.machine import num_cores
from fourm.pipeline.schema import Pipeline, Stage, command_words
from fourm.pipeline.status import Status

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 120.0  # to finish a step and write a checkpoint
_TAIL_LINES = 12


class StageError(FourmError, RuntimeError):
    """A stage of a pipeline failed."""


class Stopped(SystemExit):
    """The pipeline was asked to stop by SIGTERM."""


@dataclass
class Lane:
    """One command of a stage.

    Args:
        command: as in the YAML file.
        log: file that receives what it writes; None: it writes to the terminal itself.
        process: once it has started.
        started, ended: `time.monotonic()` then.
    """

    command: str
    log: Path | None
    process: subprocess.Popen[bytes] | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def title(self) -> str:
        """The command without its program, its options and the folders of its paths."""
        words = [word for word in command_words(self.command)[1:] if "=" not in word and not word.startswith("-")]
        return " ".join(word.rstrip("/").rsplit("/", 1)[-1] for word in words) or self.command[:40]

    @property
    def running(self) -> bool:
        return self.process is not None and self.ended is None


def run_commands(pipeline: Pipeline, stage: Stage, console: Any, keep_open: Sequence[int] = ()) -> None:
    """Run the commands of a stage side by side; the first failure ends the others.

    Args:
        pipeline: gives the folder of the logs.
        stage: what to run.
        console: rich console for the status of several commands; a single one writes to the terminal itself.
        keep_open: file descriptors the commands inherit, such as a lock that is theirs too.

    Raises:
        StageError: if a command fails; with the end of its log.
        Stopped: after SIGTERM, once the commands have ended.
    """
    cores = num_cores()
    side_by_side = min(len(stage.run), cores)
    ranks = num_ranks(stage)
    threads = max(1, cores // (side_by_side * ranks))
    logs = pipeline.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    alone = len(stage.run) == 1
    lanes = [Lane(command, None if alone else logs / f"{stage.name}-{i}.log") for i, command in enumerate(stage.run, 1)]
    with _sigterm_raises(), Status([] if alone else lanes, console) as status:
        try:
            while any(lane.ended is None for lane in lanes):
                for lane in lanes:
                    if lane.process is None and sum(other.running for other in lanes) < side_by_side:
                        _start(lane, ranks, threads, keep_open)
                    _notice_end(lane, stage)
                status.update()
                time.sleep(_POLL_SECONDS)
        finally:
            _stop([lane.process for lane in lanes if lane.process is not None and lane.running])


def _notice_end(lane: Lane, stage: Stage) -> None:
    if lane.process is None or lane.ended is not None or lane.process.poll() is None:
        return
    lane.ended = time.monotonic()
    if lane.process.returncode:
        raise StageError(_failure(stage, lane))


def _start(lane: Lane, ranks: int, threads: int, keep_open: Sequence[int]) -> None:
    own = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(own)) if own.isdigit() and int(own) else threads
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    output = None if lane.log is None else lane.log.open("wb")
    try:
        # A session of its own: a Ctrl-C comes here alone, and each command gets one SIGTERM, upon which it saves.
        lane.process = subprocess.Popen(
            arguments(lane.command, ranks),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=keep_open,
            preexec_fn=_ends_with_its_parent(),
        )
    finally:
        if output is not None:
            output.close()
    lane.started = time.monotonic()


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to save and end, and wait; a second Ctrl-C ends them at once."""
    for process in processes:
        process.terminate()
    try:
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _ends_with_its_parent() -> Callable[[], None] | None:
    """On Linux a command gets SIGTERM when the pipeline is killed, so that none goes on behind the next run."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1
    return lambda: prctl(set_parent_death_signal, signal.SIGTERM)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as an exception, so that the commands are stopped before this process ends."""

    def note(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread: signals are another's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def arguments(command: str, ranks: int = 1) -> list[str]:
    """The words of a command, with this interpreter for `fourm` and `python`, under torchrun for several ranks.

    Raises:
        ConfigError: if it begins with another program.
    """
    words = command_words(command)
    if words[0] not in ("fourm", "python"):
        raise ConfigError(f"a stage's command must begin with fourm or python: {command}")
    module = ["-m", "fourm", *words[1:]] if words[0] == "fourm" else words[1:]
    launcher = ["-m", "fourm.pipeline.torchrun", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, *module]


def num_ranks(stage: Stage) -> int:
    """Processes of each command of a stage."""
    if stage.ranks != "auto":
        return int(stage.ranks)
    ranks = min(_num_gpus() or num_cores(), stage.max_ranks)
    for command in stage.run:
        samples = _samples_per_micro_step(command)
        while ranks > 1 and samples % ranks:
            ranks -= 1
    return max(1, ranks)


def _samples_per_micro_step(command: str) -> int:
    """What the ranks of a training command share out at a time; 0 for other commands, which divides by any number."""
    from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe

    words = command_words(command)
    if words[0] != "fourm" or len(words) < 3 or words[1] not in ("pretrain", "train-tokenizer"):
        return 0
    name, *overrides = [word for word in words[2:] if not word.startswith("-")]
    if words[1] == "pretrain":
        train = recipes.load(name, PretrainRecipe, overrides, folder="pretrain").train
    else:
        train = recipes.load(name, TokenizerRecipe, overrides, folder="tokenizers").train
    return train.batch_size // train.accumulation


def _num_gpus() -> int:
    import torch  # only here: a pipeline itself needs no torch

    return torch.cuda.device_count()


def _failure(stage: Stage, lane: Lane) -> str:
    assert lane.process is not None
    message = f"stage '{stage.name}' failed (exit status {lane.process.returncode}): {lane.command}"
    if lane.log is not None:
        tail = lane.log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
        message += f"\nThe end of {lane.log}:\n" + "\n".join(f"  {line}" for line in tail)
    return message + "\nThe same command goes on from here once the cause is mended."
