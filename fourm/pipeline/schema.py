"""What a pipeline's YAML file holds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm import recipes
from fourm.errors import ConfigError, did_you_mean

FULL = "full"


@dataclass
class Stage:
    """One stage.

    Args:
        name: of the stage.
        run: commands, run side by side; `fourm ...` or `python ...`.
        outputs: files and folders below the pipeline's output that the stage writes; they must exist for it to be
            complete.
        ranks: processes of each command; above 1 it runs under torchrun. `auto`: one per GPU, else one per core up to
            `max_ranks`, and no more than its batch size divides by.
        max_ranks: upper bound for `auto`.
    """

    name: str
    run: list[str]
    outputs: list[str] = field(default_factory=list)
    ranks: str = "1"
    max_ranks: int = 2

    def __post_init__(self) -> None:
        if self.ranks != "auto" and not (self.ranks.isdigit() and int(self.ranks) >= 1):
            raise ConfigError(f"stage '{self.name}': ranks is '{self.ranks}'; expected auto or a number of processes")
        for command in self.run:
            if command_words(command)[0] not in ("fourm", "python"):
                raise ConfigError(f"stage '{self.name}': a command must begin with fourm or python: {command}")


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
    """

    name: str
    output: Path
    stages: list[Stage]
    scale: str = FULL
    variables: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"stages: two are called '{name}'; each needs a name of its own")


def load(source: str, overrides: Sequence[str] = ()) -> Pipeline:
    """A pipeline by file or by the name of a shipped one, with its scale applied.

    Args:
        source: file or name.
        overrides: `scale=NAME`, `output=FOLDER`, `variables.NAME=VALUE`.

    Raises:
        ConfigError: if the file, the scale or a variable is not known.
    """
    path = recipes.find(source, "pipelines")
    plain = recipes.read(path, [o for o in overrides if o.startswith("scale=")])
    scale, scales = str(plain.get("scale", FULL)), plain.get("scales", {})
    if scale != FULL and scale not in scales:
        raise ConfigError(f"scale is '{scale}' ({source}).{did_you_mean(scale, [FULL, *scales])}")
    chosen = [f"variables.{name}={json.dumps(value)}" for name, value in scales.get(scale, {}).items()]
    return recipes.load(source, Pipeline, [*chosen, *overrides], folder="pipelines")


def describe(pipeline: Pipeline) -> str:
    """The stages and their commands as text."""
    return "\n".join(
        f"{stage.name}\n" + "\n".join(f"  {command}" for command in stage.run) for stage in pipeline.stages
    )


def command_words(command: str) -> list[str]:
    """The words of a command, as a shell would see them.

    Raises:
        ConfigError: if a quote is left open, or there are none.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"cannot read the command '{command}': {error}") from None
    if not words:
        raise ConfigError("a stage has an empty command")
    return words
