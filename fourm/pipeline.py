"""Pipelines: the commands of a whole run, stage by stage, with what is complete skipped and what was interrupted resumed.

A stage's commands are those a user would type. Commands of one stage run side by side and share the cores. A stage is run again when its
commands, its recipes or a stage before it have changed; what it had written is then removed first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm import config as configs
from fourm.errors import ConfigError, FourmError, did_you_mean

_LOG = logging.getLogger(__name__)
_STATE = ".stages"


class StageError(FourmError, RuntimeError):
    """A stage of a pipeline failed."""


@dataclass
class Stage:
    """One stage.

    Args:
        name: of the stage.
        run: commands, run side by side; `fourm ...` or `python ...`.
        outputs: files and folders below the pipeline's output that the stage writes; they must exist for it to be complete.
        ranks: processes of each command; above 1 it runs under torchrun. `auto`: one per GPU, else one per core up to `max_ranks`.
        max_ranks: upper bound for `auto`.
    """

    name: str
    run: list[str]
    outputs: list[str] = field(default_factory=list)
    ranks: str = "1"
    max_ranks: int = 2


@dataclass
class Pipeline:
    """A whole run.

    Args:
        name: of the pipeline.
        output: its folder.
        stages: in order.
        scale: which entry of `scales` is used.
        variables: values for `${variables.NAME}` in the commands.
        scales: name -> variables replaced at that scale.
        recipes: the YAML files the commands use; a change runs the stages again.
    """

    name: str
    output: Path
    stages: list[Stage]
    scale: str = "full"
    variables: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(source: str, overrides: Sequence[str] = ()) -> Pipeline:
    """A pipeline by file or by the name of a shipped one, with its scale applied.

    Raises:
        ConfigError: if the file or the scale is not known.
    """
    path = configs.find(source, "pipelines")
    plain = configs.read(path, [o for o in overrides if o.startswith("scale=")])
    scale, scales = str(plain.get("scale", "full")), plain.get("scales", {})
    if scale != "full" and scale not in scales:
        raise ConfigError(f"scale is '{scale}' ({source}).{did_you_mean(scale, ['full', *scales])}")
    chosen = [f"variables.{name}={json.dumps(value)}" for name, value in scales.get(scale, {}).items()]
    return configs.load(source, Pipeline, [*chosen, *overrides], folder="pipelines")


def describe(pipeline: Pipeline) -> str:
    """The stages and their commands as text."""
    return "\n".join(
        f"{stage.name}\n" + "\n".join(f"  {command}" for command in stage.run) for stage in pipeline.stages
    )


def run_pipeline(pipeline: Pipeline) -> None:
    """Run all stages that are not complete.

    Raises:
        StageError: if a command fails; names its log and how to go on.
    """
    from rich.console import Console

    console = Console(stderr=True)
    state = pipeline.output / _STATE
    state.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    fingerprint = ""
    for number, stage in enumerate(pipeline.stages, 1):
        fingerprint = _fingerprint(stage, fingerprint)
        record = _read(state / f"{stage.name}.json")
        title = f"[{number}/{len(pipeline.stages)}] {stage.name}"
        if record.get("fingerprint") == fingerprint and record.get("complete") and _outputs_exist(pipeline, stage):
            seconds[stage.name] = record["seconds"]
            console.print(f"{title}: complete ({record['seconds']:.0f} s)", style="dim")
            continue
        if record and record.get("fingerprint") != fingerprint:
            _remove_outputs(pipeline, stage)
            record = {}
        console.print(f"{title} ...", style="bold")
        spent = _run_stage(pipeline, stage, state, fingerprint, float(record.get("seconds", 0.0)), seconds)
        seconds[stage.name] = spent
        console.print(f"{title}: done in {spent:.0f} s", style="green")
    console.print(
        f"{pipeline.name}: complete in {sum(seconds.values()):.0f} s, results in {pipeline.output}", style="bold green"
    )


def _run_stage(
    pipeline: Pipeline, stage: Stage, state: Path, fingerprint: str, before: float, seconds: Mapping[str, float]
) -> float:
    """Run one stage and keep its record up to date; returns its seconds, interrupted tries included."""
    path = state / f"{stage.name}.json"
    _write(path, {"fingerprint": fingerprint, "complete": False, "seconds": before})
    _write(pipeline.output / "stages.json", dict(seconds))
    start = time.monotonic()
    try:
        _run_commands(pipeline, stage)
    finally:
        spent = before + time.monotonic() - start
        _write(path, {"fingerprint": fingerprint, "complete": False, "seconds": spent})
    missing = [name for name in stage.outputs if not (pipeline.output / name).exists()]
    if missing:
        raise StageError(f"stage '{stage.name}' ended without writing {', '.join(missing)} in {pipeline.output}")
    _write(path, {"fingerprint": fingerprint, "complete": True, "seconds": spent})
    _write(pipeline.output / "stages.json", {**seconds, stage.name: spent})
    return spent


def _run_commands(pipeline: Pipeline, stage: Stage) -> None:
    """Run the commands of a stage side by side; the first failure ends the others."""
    cores = _cores()
    lanes = min(len(stage.run), cores)
    ranks = _ranks(stage)
    threads = max(1, cores // (lanes * ranks))
    logs = pipeline.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(enumerate(stage.run))
    running: list[tuple[subprocess.Popen[bytes], str, Path | None]] = []
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                index, command = waiting.pop(0)
                log = None if len(stage.run) == 1 else logs / f"{stage.name}-{index + 1}.log"
                running.append((_start(command, ranks, threads, log), command, log))
            for entry in list(running):
                process, command, log = entry
                if process.poll() is None:
                    continue
                running.remove(entry)
                if process.returncode:
                    raise StageError(_failure(stage, command, process.returncode, log))
            time.sleep(0.1)
    finally:
        for process, _, _ in running:
            process.terminate()
        for process, _, _ in running:
            process.wait()


def _start(command: str, ranks: int, threads: int, log: Path | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    output = None if log is None else log.open("ab")
    try:
        return subprocess.Popen(arguments(command, ranks), env=environment, stdout=output, stderr=output)
    finally:
        if output is not None:
            output.close()


def arguments(command: str, ranks: int = 1) -> list[str]:
    """The words of a command, with this interpreter for `fourm` and `python`, under torchrun for several ranks."""
    words = shlex.split(command)
    if not words or words[0] not in ("fourm", "python"):
        raise ConfigError(f"a stage's command must begin with fourm or python: {command}")
    module = ["-m", "fourm", *words[1:]] if words[0] == "fourm" else words[1:]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, *module]


def _failure(stage: Stage, command: str, status: int, log: Path | None) -> str:
    message = f"stage '{stage.name}' failed (exit status {status}): {command}"
    if log is not None:
        tail = log.read_text(errors="replace").strip().splitlines()[-8:]
        message += f"\nThe end of {log}:\n" + "\n".join(f"  {line}" for line in tail)
    return message + "\nThe same command goes on from here once the cause is mended."


def _ranks(stage: Stage) -> int:
    if stage.ranks != "auto":
        return int(stage.ranks)
    from fourm.train.distributed import num_gpus

    return min(num_gpus() or _cores(), stage.max_ranks)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fingerprint(stage: Stage, before: str) -> str:
    """Changes with the stage's commands, the recipes they name, and everything before it."""
    digest = hashlib.sha256(before.encode())
    for command in stage.run:
        digest.update(command.encode())
        for word in shlex.split(command):
            if not word.startswith("-") and "=" not in word:
                digest.update(_recipe_text(word))
    return digest.hexdigest()


def _recipe_text(word: str) -> bytes:
    try:
        path = configs.find(word)
        return json.dumps(configs.read(path), sort_keys=True, default=str).encode() if path.suffix == ".yaml" else b""
    except ConfigError:
        return b""


def _outputs_exist(pipeline: Pipeline, stage: Stage) -> bool:
    return all((pipeline.output / name).exists() for name in stage.outputs)


def _remove_outputs(pipeline: Pipeline, stage: Stage) -> None:
    root = pipeline.output.resolve()
    for name in stage.outputs:
        path = (root / name).resolve()
        if root not in path.parents or not path.exists():
            continue
        _LOG.warning("%s: its commands or recipes changed; removing %s", stage.name, path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
