"""Several data sets drawn from by weight, as one endless sequence that can be entered anywhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from fourm.data.configs import CacheConfig, MixtureConfig
from fourm.data.dataset import AlignedDataset, Encoder, build_dataset
from fourm.data.order import ShuffledOrder, WeightedChoice
from fourm.errors import CheckpointError, DataError
from fourm.modality import ModalitySet

logger = logging.getLogger(__name__)


class Draw(NamedTuple):
    """One sample to load.

    Args:
        dataset: name of its data set.
        epoch: how often that data set has been passed before.
        n: its number there.
    """

    dataset: str
    epoch: int
    n: int


class Mixture:
    """Data sets and their weights.

    Args:
        datasets: name -> data set.
        weights: name -> relative weight; data sets of weight 0 are never drawn.

    Raises:
        DataError: if there is no data set to draw from.
    """

    def __init__(self, datasets: Mapping[str, AlignedDataset], weights: Mapping[str, float] | None = None) -> None:
        self.datasets = {name: d for name, d in datasets.items() if weights is None or weights.get(name, 1.0) > 0}
        if not self.datasets:
            raise DataError("the mixture has no data sets; list at least one under data.train.datasets")
        self.weights = {name: 1.0 if weights is None else float(weights.get(name, 1.0)) for name in self.datasets}

    def __len__(self) -> int:
        """Samples in all data sets together."""
        return sum(len(dataset) for dataset in self.datasets.values())


class MixtureOrder:
    """The endless sequence of draws from a mixture. Where it stands is one integer per data set and their sum.

    Args:
        mixture: data sets and weights.
        seed: seed of the run.
        window: shards that are shuffled together.
        start: a cursor (`cursor`) to continue from.

    Raises:
        CheckpointError: if the cursor is not one.
    """

    def __init__(self, mixture: Mixture, seed: int, window: int, start: Mapping[str, Any] | None = None) -> None:
        self.names = list(mixture.datasets)
        self._prefetch = [getattr(dataset, "prefetch", None) for dataset in mixture.datasets.values()]
        self._orders = [ShuffledOrder(d.shard_sizes, seed, name, window) for name, d in mixture.datasets.items()]
        self._choice = WeightedChoice([mixture.weights[name] for name in self.names], seed)
        self._draws, self._taken = _read_cursor(start, self.names)

    @property
    def cursor(self) -> dict[str, Any]:
        """Where the next draw is, as plain values: `draws` so far, and how many of them fell on each data set."""
        return {"draws": self._draws, "datasets": dict(zip(self.names, self._taken, strict=True))}

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """Continue from `cursor`."""
        self._draws, self._taken = _read_cursor(cursor, self.names)

    def next(self) -> Draw:
        """The next draw."""
        chosen = self._choice(self._draws)
        order = self._orders[chosen]
        epoch, n = order.sample(self._taken[chosen])
        fetch = self._prefetch[chosen]
        if fetch is not None and (soon := order.soon(self._taken[chosen])) is not None:
            fetch(soon)
        self._draws += 1
        self._taken[chosen] += 1
        return Draw(self.names[chosen], epoch, n)


def _read_cursor(start: Mapping[str, Any] | None, names: list[str]) -> tuple[int, list[int]]:
    if start is None:
        return 0, [0] * len(names)
    try:
        taken = {str(name): int(count) for name, count in start["datasets"].items()}
        draws = int(start["draws"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(
            f"the data cursor {start!r} is not one; expected draws and datasets. Resume from another checkpoint, "
            f"or start a new run"
        ) from None
    if set(taken) != set(names):
        logger.warning(
            "the data sets changed: the checkpoint has %s, the recipe %s; new ones start at their beginning",
            sorted(taken),
            sorted(names),
        )
    return draws, [taken.get(name, 0) for name in names]


def build_mixture(
    config: MixtureConfig,
    modalities: ModalitySet,
    encoders: Mapping[str, Encoder] | None = None,
    cache: CacheConfig | None = None,
) -> Mixture:
    """Open the data sets of a recipe.

    Raises:
        ConfigError: if a data set names unknown modalities.
        DataError: if data is missing, damaged or not aligned.
    """
    chosen = {name: dataset for name, dataset in config.datasets.items() if dataset.weight > 0}
    datasets = {name: build_dataset(name, dataset, modalities, encoders, cache) for name, dataset in chosen.items()}
    return Mixture(datasets, {name: dataset.weight for name, dataset in chosen.items()})
