"""A linear model, an objective with two parts and a loader with a cursor, small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm.objectives.base import Loss
from fourm.train.configs import OptimizerConfig, ScheduleConfig, TrainConfig
from fourm.train.distributed import World
from fourm.train.trainer import Trainer

PARTS = ("even", "odd")


class ToyModel(nn.Module):
    """Embedding, norm and one linear head per part, with dropout: every kind of parameter, and randomness."""

    def __init__(self, dim: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(10, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({part: nn.Linear(dim, 1) for part in PARTS})
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def answer(self, part: str, ids: Tensor) -> Tensor:
        """(n,) one number per id."""
        return self.heads[part](self.dropout(self.norm(self.embed(ids)))).squeeze(-1)


class ToyBatch:
    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        odd = sum(i % 2 for i in ids.tolist())
        self.num = {"even": len(ids) - odd, "odd": odd}

    def to(self, device: Any, non_blocking: bool = False) -> ToyBatch:
        return self


class ToyObjective:
    """The answer to an id should be a fixed function of it; even and odd ids are the two parts."""

    parts = PARTS
    frozen: dict[str, nn.Module] = {}  # noqa: RUF012

    def __init__(self, nan_after_calls: int | None = None) -> None:
        self.calls_left = nan_after_calls

    def counts(self, batch: ToyBatch) -> dict[str, float]:
        return dict(batch.num)

    def num_tokens(self, batch: ToyBatch) -> int:
        return len(batch.ids)

    def loss(self, model: ToyModel, batch: ToyBatch) -> Loss:
        parts = {}
        for i, part in enumerate(PARTS):
            ids = batch.ids[batch.ids % 2 == i]
            error = model.answer(part, ids) - torch.sin(ids.float())
            parts[part] = (error.square().sum(), float(len(ids)))
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                parts["odd"] = (parts["odd"][0] * float("nan"), parts["odd"][1])
        return Loss(parts)


def scale_losses(objective: Any, factor: Callable[[], float]) -> None:
    """Have an objective's losses come out so many times as large; the factor is asked each time."""
    plain = objective.loss

    def loss(*given: Any) -> Loss:
        found = plain(*given)
        parts = {part: (value * factor(), count) for part, (value, count) in found.parts.items()}
        return replace(found, parts=parts)

    objective.loss = loss


def batch_ids(seed: int, n: int, size: int) -> Tensor:
    """(size,) ids of global micro-batch number `n`."""
    return torch.randint(0, 10, (size,), generator=torch.Generator().manual_seed(seed * 100_003 + n))


class ToyLoader:
    """Micro-batches as a pure function of their number; rank r takes its slice of the global one."""

    def __init__(self, config: TrainConfig, world: World, seed: int = 0, end: int | None = None) -> None:
        self.size = config.batch_size // config.accumulation
        self.accumulation, self.world, self.seed, self.end = config.accumulation, world, seed, end

    def order(self, whole: Tensor) -> Tensor:
        """The ids of a step in the order they are handed out."""
        return whole

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[tuple[ToyBatch, dict[str, Any]]]:
        n = cursor["n"] if cursor else 0
        share = self.size // self.world.size
        while self.end is None or n < self.end:
            step, micro = divmod(n, self.accumulation)
            whole = self.order(batch_ids(self.seed, step, self.size * self.accumulation))
            ids = whole[micro * self.size : (micro + 1) * self.size][self.world.rank * share :][:share]
            n += 1
            yield ToyBatch(ids), {"n": n}


def toy_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "max_steps": 20,
        "batch_size": 8,
        "precision": "fp32",
        "device": "cpu",
        "log_every_steps": 1,
        "tensorboard": False,
        "optimizer": OptimizerConfig(lr=0.05),
        "schedule": ScheduleConfig(warmup_fraction=0.1),
    }
    return TrainConfig(**{**values, **changes})


def toy_trainer(output: Path, config: TrainConfig | None = None, **changes: Any) -> Trainer:
    config = config or toy_config()
    world = changes.pop("world", World())
    model = changes.pop("model", None) or ToyModel()
    objective = changes.pop("objective", None) or ToyObjective()
    loader = changes.pop("loader", None) or ToyLoader(config, world)
    return Trainer(model, objective, loader, config, output=output, world=world, **changes)
