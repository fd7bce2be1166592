"""Ranks of a job as processes that start in a moment: a server that has torch loaded forks them."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TOY = "tests.unit.train.toy_job"
COMMAND = "tests.end_to_end.command_job"
_CONTEXT = multiprocessing.get_context("forkserver")
# diffusers too, which some of the jobs import when they make their model.
_CONTEXT.set_forkserver_preload([TOY, COMMAND, "diffusers.models.unets.unet_2d_condition"])


def start_ranks(output: Path, num_ranks: int = 2, job: str = TOY, **options: Any) -> list[BaseProcess]:
    """Start the ranks; what they write on the error stream goes to `rank-N.err` in the output folder.

    Args:
        output: folder of the run.
        num_ranks: processes.
        job: module whose function `run` takes the options.
        options: of the job.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output.mkdir(parents=True, exist_ok=True)
    given = {"output": str(output), **options}
    ranks = [
        _CONTEXT.Process(target=_run, args=(rank, num_ranks, port, job, given), daemon=False)
        for rank in range(num_ranks)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def run_ranks(output: Path, num_ranks: int = 2, **options: Any) -> None:
    """Run the job to its end."""
    ranks = start_ranks(output, num_ranks, **options)
    assert wait(ranks) == [0] * num_ranks, messages(output)


def wait(ranks: list[BaseProcess], seconds: float = 300) -> list[int | None]:
    """Exit statuses; None for a rank that does not end in time, which is then killed."""
    for rank in ranks:
        rank.join(seconds)
    statuses = [rank.exitcode for rank in ranks]
    for rank in ranks:
        ask_where(rank)
    for rank in ranks:
        rank.kill()
        rank.join()
    return statuses


def ask_where(rank: BaseProcess) -> None:
    """End a rank that hangs; its messages then say where all its threads were."""
    if rank.is_alive() and rank.pid is not None:
        os.kill(rank.pid, signal.SIGABRT)
        rank.join(10)


def messages(output: Path) -> str:
    """What the ranks said."""
    return "\n".join(path.read_text() for path in sorted(output.glob("rank-*.err")))


def _run(rank: int, num_ranks: int, port: int, job: str, options: dict[str, Any]) -> None:
    import logging

    os.setsid()  # a signal to its group reaches its loader processes, and no others
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as in a program of its own
    if sys.platform == "linux":  # not to outlive a test run that is ended from outside
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    errors = os.open(Path(options["output"]) / f"rank-{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    faulthandler.enable()  # a rank that hangs is asked where by SIGABRT
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    if num_ranks > 1:
        os.environ |= {name: str(value) for name, value in facts.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    logging.basicConfig(level=logging.INFO)
    importlib.import_module(job).run(options)
