"""Data of the toys that are made of images: sixteen samples, and the loader of real recipes over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fourm.data.loader import Loader
from fourm.data.mixture import Mixture
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World


class Sixteen:
    """A data set of sixteen samples in two shards, drawn anew in every epoch."""

    name = "sixteen"
    shard_sizes = (8, 8)

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        """Sample n, whose randomness is all in `rng`."""
        raise NotImplementedError


class DatasetLoader:
    """Batches of one data set as a recipe's loader gives them.

    Args:
        dataset: what to load.
        config: sizes of the batches.
        world: which share of them is this rank's.
        objective: prepares samples and collates them.
        options: further ones of `Loader`.
    """

    def __init__(self, dataset: Any, config: TrainConfig, world: World, objective: Any, **options: Any) -> None:
        self.dataset, self.config, self.world, self.objective = dataset, config, world, objective
        self.options = options

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[Any]:
        return iter(
            Loader(
                Mixture({self.dataset.name: self.dataset}),
                self.objective.prepare,
                self.objective.collate,
                batch_size=self.config.micro_batch_size(self.world.size),
                rank=self.world.rank,
                world_size=self.world.size,
                start=cursor,
                **self.options,
            )
        )
