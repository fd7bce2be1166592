"""The toy run as a program of its own, for tests that start, stop and kill processes.

Its one argument is a JSON object: `output`, `config` (values of `toy_config`), `model` (`linear`, `multimodal`,
`documents`, `contrastive`, `shards`, `transfer`, `detection`, `estimates`, or a kind of tokenizer), `options` of the
multimodal one, `most` (the largest scale) of the contrastive one, the folder `shards` and `damaged` of the one on
shards, `drawn` of the detector, `gradients` (whether those of the first step are kept), and how it is slowed down or
disturbed: `sleep`, `num_workers`, `dropout`, `by_part`, `stop_rank`, `stop_at`, `die_in`, `die_step`, `fail`,
`slow_save` (seconds), `stall_at` (the micro-batch at which the loader of `bad_rank` hangs) and `spikes` (micro-batches
with a loss a thousand times too large, on every rank; without accumulation).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from fourm.data.configs import DatasetConfig
from fourm.data.dataset import build_dataset
from fourm.errors import FourmError
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.configs import MaskedConfig
from fourm.objectives.masked import Masked
from fourm.train import checkpoint
from fourm.train.configs import OptimizerConfig, ParallelConfig, ScheduleConfig, SpikeConfig, TrainConfig
from fourm.train.distributed import World, session
from fourm.train.shards import whole
from fourm.train.trainer import Trainer
from tests.unit.train import toy_contrastive, toy_detection, toy_estimates, toy_multimodal, toy_tokenizer, toy_transfer
from tests.unit.train.toy import ToyLoader, ToyModel, ToyObjective, scale_losses, toy_config, toy_trainer
from tests.unit.train.toy_data import DatasetLoader


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
    """A loader slow enough to be killed between steps, and able to stop its own process; `number`: the last batch's."""

    def __init__(self, loader: Any, world: World, options: dict[str, Any]) -> None:
        self.number = 0
        self.loader, self.world, self.options = loader, world, options

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[Any]:
        for batch, after in self.loader(cursor):
            time.sleep(self.options.get("sleep", 0.0))
            if after.get("n") == self.options.get("stop_at", 0) and self.world.rank == self.options.get("stop_rank", 0):
                os.kill(os.getpid(), signal.SIGTERM)
            if after.get("n") == self.options.get("stall_at", 0) and self.world.rank == self.options.get("bad_rank", 0):
                time.sleep(3600)
            self.number = after.get("n", 0)
            yield batch, after


def linear(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Model, objective and loader of the linear toy."""
    loader = (PartLoader if options.get("by_part") else ToyLoader)(config, world)
    workers = options.get("num_workers", 0)

    def load(cursor: dict[str, Any] | None) -> Any:
        stream = Stream(loader, cursor)
        return DataLoader(stream, batch_size=None, num_workers=workers) if workers else stream

    return ToyModel(dropout=options.get("dropout", 0.0)), ToyObjective(), load


def _workers(options: dict[str, Any]) -> dict[str, int]:
    return {"num_workers": options.get("num_workers", 0)}


def image_tokenizer(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a tokenizer."""
    objective = toy_tokenizer.reconstruct()
    sizes = {"resolutions": toy_tokenizer.RESOLUTIONS, "step_size": config.batch_size}
    loader = DatasetLoader(toy_tokenizer.Waves(), config, world, objective, **_workers(options), **sizes)
    return toy_tokenizer.tokenizer(options["model"]), objective, loader


def fine_tuning(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a backbone with a head."""
    objective = toy_transfer.supervised()
    loader = DatasetLoader(toy_transfer.Waves(), config, world, objective, **_workers(options))
    return toy_transfer.network(options.get("dropout", 0.0)), objective, loader


def detecting(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a detector; `drawn` false leaves out what each rank draws itself."""
    model = toy_detection.network(drawn=options.get("drawn", True), drop_path=options.get("dropout", 0.0))
    objective = toy_detection.objective(model)
    return model, objective, DatasetLoader(toy_detection.Squares(), config, world, objective, **_workers(options))


def estimating(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a tokenizer that estimates what a frozen painter is told."""
    model = toy_estimates.detokenizer()
    objective = toy_estimates.estimate(model)
    return model, objective, DatasetLoader(toy_estimates.Told(), config, world, objective, **_workers(options))


def contrasting(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of towers whose vectors are compared over ranks."""
    objective = toy_contrastive.objective()
    loader = DatasetLoader(toy_contrastive.Said(), config, world, objective, **_workers(options))
    return toy_contrastive.model(options.get("dropout", 0.0), options.get("most")), objective, loader


def multimodal(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of the any-to-any model; sharded, it is built on the meta device where its weights are not needed."""
    kind = {name: options.get("options", {}).get(name, False) for name in ("alone", "fed", "slots")}
    objective = toy_multimodal.objective(options.get("reduction", "modality"), **kind)
    meta = config.parallel.kind == "fsdp" and not world.is_main
    with torch.device("meta") if meta else contextlib.nullcontext():
        model = toy_multimodal.model(**options.get("options", {}))
    return model, objective, toy_multimodal.MixedLoader(config, world, objective)


def documents(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same of a model that reads documents of text and images."""
    return multimodal(config, world, {**options, "options": {"alone": True, "slots": True}})


def from_shards(config: TrainConfig, world: World, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The any-to-any model on tokens in shards, through the loader of real runs."""
    modalities = toy_multimodal.MODALITIES.subset(["depth", "codes"])
    objective = Masked(MaskedConfig(num_input_tokens=8, num_target_tokens=8), modalities)
    dataset = build_dataset("shards", DatasetConfig(options["shards"]), modalities)

    damaged = {"skip_damaged": options.get("damaged") == "skip"}
    load = DatasetLoader(dataset, config, world, objective, **_workers(options), **damaged)
    sizes = MultimodalConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2, embedding_std=0.4)
    return Multimodal(modalities, sizes, 0), objective, load


def keep_gradients(trainer: Trainer, path: Path) -> None:
    """Write the whole gradients of the first step that is done to a file."""
    prepare = trainer._prepare

    def prepared() -> None:
        prepare()
        step = trainer._updater.step
        kept = path.exists()  # by an earlier start; asked before any rank can have written it
        trainer.world.barrier()

        def keep(*arguments: Any, **options: Any) -> Any:
            nonlocal kept
            if not kept:
                kept = True
                named = trainer._parallel.model.named_parameters()
                found = {name: whole(p.grad) for name, p in named if p.grad is not None}
                trainer.world.on_main(lambda: torch.save(found, path))
            return step(*arguments, **options)

        trainer._updater.step = keep  # type: ignore[method-assign]

    trainer._prepare = prepared  # type: ignore[method-assign]


def sabotage(options: dict[str, Any]) -> None:
    """Kill this process, or fail, inside a save."""
    stage, step = options.get("die_in"), options.get("die_step", 0)
    if "slow_save" in options:
        publish = checkpoint.publish_folder

        def slow(temporary: Path, path: Path) -> None:
            time.sleep(options["slow_save"])
            publish(temporary, path)

        checkpoint.publish_folder = slow
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
    kinds = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig, "parallel": ParallelConfig, "spike": SpikeConfig}
    for key in values.keys() & kinds.keys():
        values[key] = kinds[key](**values[key])
    config = toy_config(**values)
    sabotage(options)
    with session("cpu", threads=1) as world:
        makers = {
            "linear": linear, "multimodal": multimodal, "documents": documents, "shards": from_shards,
            "transfer": fine_tuning, "detection": detecting, "estimates": estimating, "contrastive": contrasting,
        }  # fmt: skip
        make = makers.get(options.get("model", "linear"), image_tokenizer)
        model, objective, loader = make(config, world, options)
        loader = Disturbed(loader, world, options)
        scale_losses(objective, lambda: 1000.0 if loader.number in options.get("spikes", ()) else 1.0)
        evaluate = (lambda: {"loss": 1.0, "weights": size_of(model)}) if world.is_main else dict
        output = Path(options["output"])
        trainer = toy_trainer(
            output, config, world=world, loader=loader, model=model, objective=objective,
            evaluate=evaluate,
        )  # fmt: skip
        if options.get("gradients"):
            keep_gradients(trainer, output / "gradients.pt")
        try:
            trainer.fit()
        except FourmError as error:
            (output / f"error-{world.rank}.txt").write_text(f"{type(error).__name__}: {error}")
            raise SystemExit(getattr(error, "exit_status", 1)) from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run(json.loads(sys.argv[1]))
