"""Running a pipeline: which stages are complete, which go on, which begin anew."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from fourm import recipes
from fourm.errors import ConfigError, FourmError
from fourm.files import publish
from fourm.pipeline.lanes import StageError, run_commands
from fourm.pipeline.schema import Pipeline, Stage, command_words

_LOG = logging.getLogger(__name__)
_STATE = ".stages"
_RECIPE_FOLDERS = {
    "pretrain": "pretrain",
    "train-tokenizer": "tokenizers",
    "train-wordpiece": "tokenizers",
    "evaluate": "evaluate",
}
_WAIT_SECONDS = 60.0


def run_pipeline(pipeline: Pipeline) -> None:
    """Run all stages that are not complete.

    Raises:
        StageError: if a command fails; names its log and how to go on.
        FourmError: if another run is using the same output.
    """
    from rich.console import Console

    console = Console(stderr=True)
    state = pipeline.output / _STATE
    state.mkdir(parents=True, exist_ok=True)
    with _only_run(state / "lock", pipeline.output, console) as lock:
        _run_stages(pipeline, state, console, lock)


def _run_stages(pipeline: Pipeline, state: Path, console: Any, lock: Sequence[int]) -> None:
    seconds: dict[str, float] = {}
    fingerprint = ""
    for number, stage in enumerate(pipeline.stages, 1):
        fingerprint = _fingerprint(stage, fingerprint)
        record = _read(state / f"{stage.name}.json")
        title = f"({number}/{len(pipeline.stages)}) {stage.name}"
        if record.get("fingerprint") == fingerprint and record.get("complete") and _outputs_exist(pipeline, stage):
            seconds[stage.name] = record["seconds"]
            console.print(f"{title}: complete ({record['seconds']:.0f} s)", style="dim", highlight=False)
            continue
        if record and record.get("fingerprint") != fingerprint:
            _remove_outputs(pipeline, stage)
            record = {}
        if record.get("complete"):  # but outputs are gone
            record["seconds"] = 0.0
        console.print(f"{title} ...", style="bold", highlight=False)
        record = {"seconds": 0.0, **record, "fingerprint": fingerprint}
        spent = _run_stage(pipeline, stage, record, seconds, partial(run_commands, pipeline, stage, console, lock))
        seconds[stage.name] = spent
        console.print(f"{title}: done in {spent:.0f} s", style="green", highlight=False)
    total = sum(seconds.values())
    console.print(
        f"{pipeline.name}: complete in {total:.0f} s, results in {pipeline.output}", style="bold green", soft_wrap=True
    )


def _run_stage(
    pipeline: Pipeline, stage: Stage, record: Mapping[str, Any], seconds: Mapping[str, float], run: Callable[[], None]
) -> float:
    """Run one stage and keep its record up to date; returns its seconds, interrupted tries included."""
    path = pipeline.output / _STATE / f"{stage.name}.json"
    _write(path, {**record, "complete": False})
    _write(pipeline.output / "stages.json", dict(seconds))
    start = time.monotonic()
    try:
        run()
    finally:
        spent = record["seconds"] + time.monotonic() - start
        # On a full disk this fails too, and must not hide what failed first.
        with contextlib.suppress(OSError):
            _write(path, {**record, "complete": False, "seconds": spent})
    missing = [name for name in stage.outputs if not (pipeline.output / name).exists()]
    if missing:
        raise StageError(f"stage '{stage.name}' ended without writing {', '.join(missing)} in {pipeline.output}")
    _write(path, {**record, "complete": True, "seconds": spent})
    _write(pipeline.output / "stages.json", {**seconds, stage.name: spent})
    return float(spent)


@contextlib.contextmanager
def _only_run(path: Path, output: Path, console: Any) -> Iterator[Sequence[int]]:
    """Hold the lock of an output folder. The system releases it when this process and its commands end.

    Yields:
        the file descriptors that hold it, for the commands to inherit.

    Raises:
        FourmError: if another run keeps it.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix: two runs at once are then the user's care
        yield ()
        return
    with path.open("a") as file:
        for _ in _attempts(file, fcntl, console):
            break
        else:
            raise FourmError(f"another run is writing to {output}; wait for its end, or choose output=ANOTHER_FOLDER")
        yield (file.fileno(),)


def _attempts(file: IO[str], fcntl: Any, console: Any) -> Iterator[None]:
    """Yields once the lock is held; commands of a killed run take a moment to save and end."""
    began = time.monotonic()
    waiting = False
    while time.monotonic() - began < _WAIT_SECONDS:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                console.print("waiting for another run in the same folder to end ...", style="dim")
            waiting = True
            time.sleep(0.5)
        except OSError:  # a file system without locks
            yield
            return
        else:
            yield
            return


def _fingerprint(stage: Stage, before: str) -> str:
    """Changes with the stage's commands, the recipes they name, and everything before it."""
    digest = hashlib.sha256(before.encode())
    for command in stage.run:
        digest.update(command.encode())
        for path in _recipes(command):
            digest.update(json.dumps(_values(path, command), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _values(path: Path, command: str) -> dict[str, Any]:
    """The values of a recipe; what it leaves to the command line comes from the command."""
    try:
        return recipes.read(path)
    except ConfigError:
        return recipes.read(path, [word for word in command_words(command)[3:] if "=" in word])


def _recipes(command: str) -> list[Path]:
    """The recipes a command runs: the one after a command that takes a recipe, and YAML files it names."""
    words = command_words(command)
    named = [Path(word) for word in words if word.endswith(".yaml") and Path(word).is_file()]
    takes_recipe = len(words) > 2 and words[1] in _RECIPE_FOLDERS and words[1:3] != ["evaluate", "tokenizer"]
    if takes_recipe and not words[2].endswith(".yaml"):
        named.append(recipes.find(words[2], _RECIPE_FOLDERS[words[1]]))
    return named


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
    publish(path, json.dumps(content, indent=1) + "\n")
