"""The toy run as a program of its own, for tests that start, stop and kill processes.

Its one argument is a JSON object: `output`, `config` (values of `toy_config`), `model` (`linear`, `transfer`, or a kind
of tokenizer), and how it is slowed down or disturbed: `sleep`, `num_workers`, `dropout`, `by_part`, `stop_rank`,
`stop_at`, `die_in`, `die_step`, `fail`.
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

from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from fourm.errors import FourmError
from fourm.train import checkpoint
from fourm.train.configs import OptimizerConfig, ScheduleConfig, TrainConfig
from fourm.train.distributed import World, session
from tests.unit.train import toy_tokenizer, toy_transfer
from tests.unit.train.toy import ToyLoader, ToyModel, ToyObjective, toy_config, toy_trainer


class Stream(IterableDataset[Any]):
    """A loader's stream from a cursor on, for loader processes."""

    def __init__(self, loader: ToyLoader, cursor: dict[str, Any] | None) -> None:
        self.loader, self.cursor = loader, cursor

    def __iter__(self) -> Iterator[Any]:
        return ToyLoader.__call__(self.loader, self.cursor)


class PartLoader(ToyLoader):
    """Even ids first: the first rank hardly ever sees the part "odd"."""

    def order(self, whole: Tensor) -> Tensor:
        return whole[(whole % 2).argsort(stable=True)]


class Disturbed:
    """A loader slow enough to be killed between steps, and able to stop its own process."""

    def __init__(self, loader: Any, world: World, options: dict[str, Any]) -> None:
        self.loader, self.world, self.options = loader, world, options

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[Any]:
        for batch, after in self.loader(cursor):
            time.sleep(self.options.get("sleep", 0.0))
            if after.get("n") == self.options.get("stop_at", 0) and self.world.rank == self.options.get("stop_rank", 0):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch, after


def linear(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Model, objective and loader of the linear toy."""
    loader = (PartLoader if options.get("by_part") else ToyLoader)(config, world)
    workers = options.get("num_workers", 0)

    def load(cursor: dict[str, Any] | None) -> Any:
        stream = Stream(loader, cursor)
        return DataLoader(stream, batch_size=None, num_workers=workers) if workers else stream

    return ToyModel(dropout=options.get("dropout", 0.0)), ToyObjective(), load


def image_tokenizer(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a tokenizer."""
    objective = toy_tokenizer.reconstruct()
    loader = toy_tokenizer.WavesLoader(config, world, objective, options.get("num_workers", 0))
    return toy_tokenizer.tokenizer(options["model"]), objective, loader


def fine_tuning(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a backbone with a head."""
    objective = toy_transfer.supervised()
    loader = toy_transfer.WavesLoader(config, world, objective, options.get("num_workers", 0))
    return toy_transfer.network(options.get("dropout", 0.0)), objective, loader


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


def size_of(model: nn.Module) -> float:
    """A number in which any difference of weights or buffers shows."""
    return sum(float(tensor.double().abs().sum()) for tensor in model.state_dict().values())


def run(options: dict[str, Any]) -> None:
    """Train as the options say."""
    values = dict(options.get("config", {}))
    for key, kind in (("optimizer", OptimizerConfig), ("schedule", ScheduleConfig)):
        if key in values:
            values[key] = kind(**values[key])
    config = toy_config(**values)
    sabotage(options)
    with session("cpu", threads=1) as world:
        make = {"linear": linear, "transfer": fine_tuning}.get(options.get("model", "linear"), image_tokenizer)
        model, objective, loader = make(config, world, options)
        evaluate = (lambda: {"loss": 1.0, "weights": size_of(model)}) if world.is_main else dict
        output = Path(options["output"])
        trainer = toy_trainer(
            output, config, world=world, loader=Disturbed(loader, world, options), model=model, objective=objective,
            evaluate=evaluate,
        )  # fmt: skip
        try:
            trainer.fit()
        except FourmError as error:
            (output / f"error-{world.rank}.txt").write_text(f"{type(error).__name__}: {error}")
            raise SystemExit(1) from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run(json.loads(sys.argv[1]))
