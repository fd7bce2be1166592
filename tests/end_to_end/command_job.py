"""A `fourm` command as the job of ranks (tests/distributed/ranks.py), which may be killed within a step."""

from __future__ import annotations

import os
import signal
from typing import Any

# What the commands that train import, so that the server which forks the ranks has it already.
import fourm.recipe.pretrain
import fourm.recipe.tokenizer  # noqa: F401
from fourm.cli import main
from fourm.train.optimizer import Updater


def run(options: dict[str, Any]) -> None:
    """Run the words `command`; in the step `killed_in`, if there is one, when the weights have changed, die."""
    if options.get("killed_in"):
        _die_in(options["killed_in"])
    main(options["command"])


def _die_in(number: int) -> None:
    step, done = Updater.step, 0

    def die(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        done += 1
        result = step(*arguments, **named)
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Updater.step = die  # type: ignore[method-assign]
