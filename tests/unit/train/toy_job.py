"""The toy run as a program of its own, for tests that start, stop and kill processes.

Its one argument is a JSON object: `output`, `config` (values of `toy_config`), and how it is slowed down or
disturbed: `sleep`, `num_workers`, `dropout`, `by_part`, `stop_rank`, `stop_at`, `die_in`, `die_step`, `fail`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fourm.errors import FourmError
from fourm.train import checkpoint
from fourm.train.configs import OptimizerConfig, ScheduleConfig
from fourm.train.distributed import World, session
from tests.unit.train.toy import ToyLoader, ToyModel, toy_config, toy_trainer


class Stream(IterableDataset[Any]):
    """A loader's stream from a cursor on, for loader processes."""

    def __init__(self, loader: ToyLoader, cursor: dict[str, Any] | None) -> None:
        self.loader, self.cursor = loader, cursor

    def __iter__(self) -> Iterator[Any]:
        return ToyLoader.__call__(self.loader, self.cursor)


class JobLoader(ToyLoader):
    """Slow enough to be killed between steps, and able to stop its own process."""

    def __init__(self, config: Any, world: World, options: dict[str, Any]) -> None:
        super().__init__(config, world)
        self.options = options

    def order(self, whole: Tensor) -> Tensor:
        # Even ids first: the first rank hardly ever sees the part "odd".
        return whole[(whole % 2).argsort(stable=True)] if self.options.get("by_part") else whole

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[Any]:
        stream = Stream(self, cursor)
        workers = self.options.get("num_workers", 0)
        for batch, after in DataLoader(stream, batch_size=None, num_workers=workers) if workers else stream:
            time.sleep(self.options.get("sleep", 0.0))
            if after["n"] == self.options.get("stop_at") and self.world.rank == self.options.get("stop_rank", 0):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch, after


def sabotage(options: dict[str, Any]) -> None:
    """Kill this process, or fail, inside a save."""
    stage, step = options.get("die_in"), options.get("die_step", 0)
    if stage is None:
        return
    name = {"write": "write_json", "publish": "publish_folder", "retention": "remove_folder"}[stage]
    original = getattr(checkpoint, name)

    def die(path: Path, *rest: Any) -> None:
        if f"step-{step:08d}" in str(path):
            if options.get("fail"):
                raise OSError(28, "No space left on device")
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, *rest)

    setattr(checkpoint, name, die)


def run(options: dict[str, Any]) -> None:
    """Train as the options say."""
    values = dict(options.get("config", {}))
    for key, kind in (("optimizer", OptimizerConfig), ("schedule", ScheduleConfig)):
        if key in values:
            values[key] = kind(**values[key])
    config = toy_config(**values)
    sabotage(options)
    with session("cpu", threads=1) as world:
        loader = JobLoader(config, world, options)
        model = ToyModel(dropout=options.get("dropout", 0.0))
        evaluate = (lambda: {"loss": 1.0}) if world.is_main else dict
        output = Path(options["output"])
        trainer = toy_trainer(output, config, world=world, loader=loader, model=model, evaluate=evaluate)
        try:
            trainer.fit()
        except FourmError as error:
            (output / f"error-{world.rank}.txt").write_text(f"{type(error).__name__}: {error}")
            raise SystemExit(1) from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run(json.loads(sys.argv[1]))
