"""Batches from a mixture: the same for any number of workers and ranks, and exactly resumable.

The order is decided in the main process, as numbers only. Workers take whole batches and turn numbers into arrays.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fourm.data.dataset import AlignedDataset
from fourm.data.mixture import Draw, Mixture, MixtureOrder
from fourm.data.order import WeightedChoice
from fourm.errors import ConfigError, DataError, FourmError, StorageError
from fourm.rng import generator

Prepare = Callable[[dict[str, Any], np.random.Generator], Any]
Collate = Callable[[list[Any]], Any]
_PREFETCHED_BATCHES = 4
_DAMAGED_IN_A_ROW = 100
logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What one batch is made of.

    Args:
        draws: its samples.
        resolution: of all its images; None: their modalities' sizes.
    """

    draws: list[Draw]
    resolution: int | None = None


class Loader:
    """An endless iterator of `(batch, cursor)`. A `Loader` started at a cursor yields exactly what came after it.

    Args:
        mixture: data sets and weights.
        prepare: sample and generator -> item of a batch; pure. Its generator is `fourm.rng.generator(seed, dataset,
            epoch, n)`. Or data set -> such a function.
        collate: items -> batch.
        batch_size: samples per rank.
        rank: this process.
        world_size: number of processes; rank r takes slice r of each global batch.
        num_workers: loader processes; 0 loads in this process.
        seed: seed of order, augmentation and masks.
        window: shards that are shuffled together.
        start: a cursor to continue from.
        resolutions: image sizes to choose from, one for each optimizer step: a function of the seed and the number of
            samples before the step, so that all ranks and a resumed run agree.
        step_size: samples of an optimizer step over all ranks; None: one batch of each rank.
        pin_memory: page-locked batches for fast copies to the GPU; None: where CUDA is available.
        timeout_seconds: how long a batch of a loader process may take; None: as long as it takes.
        skip_damaged: put another sample of the data set, drawn at random, in the place of one that cannot be read.

    Raises:
        DataError: while iterating, if data is damaged; the same error for any number of workers. With `skip_damaged`,
            if many samples in a row are.
    """

    def __init__(
        self,
        mixture: Mixture,
        prepare: Prepare | Mapping[str, Prepare],
        collate: Collate,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        window: int = 64,
        start: Mapping[str, Any] | None = None,
        resolutions: Sequence[int] = (),
        step_size: int | None = None,
        pin_memory: bool | None = None,
        timeout_seconds: float | None = None,
        skip_damaged: bool = False,
    ) -> None:
        _check_sizes(batch_size, rank, world_size)
        self.batch_size, self.rank, self.world_size, self.num_workers = batch_size, rank, world_size, num_workers
        self.pin_memory, self.timeout_seconds = pin_memory, timeout_seconds
        self._order = MixtureOrder(mixture, seed, window, start)
        self._resolutions, self._step_size = tuple(resolutions), step_size or batch_size * world_size
        self._choice = WeightedChoice([1.0] * len(self._resolutions), seed, "resolution") if resolutions else None
        self._assemble = _Assemble(mixture.datasets, prepare, collate, seed, skip_damaged)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        order = self._order
        # The workers run ahead of the training step: each batch is kept with the cursor that follows it, not the
        # newest one.
        cursors: deque[dict[str, Any]] = deque([order.cursor])

        def plans() -> Iterator[Plan]:
            while True:
                resolution = self._resolution(order.cursor["draws"])
                everyone = [order.next() for _ in range(self.batch_size * self.world_size)]
                cursors.append(order.cursor)
                yield Plan(everyone[self.rank * self.batch_size : (self.rank + 1) * self.batch_size], resolution)

        try:
            for batch in _load(plans(), self._assemble, self.num_workers, self.pin_memory, self.timeout_seconds):
                cursors.popleft()
                yield batch, cursors[0]
        finally:
            # Iterating again continues after the last batch that was handed out.
            order.seek(cursors[0])

    def _resolution(self, draws: int) -> int | None:
        """The size of all images of the optimizer step that sample number `draws` belongs to."""
        return None if self._choice is None else self._resolutions[self._choice(draws // self._step_size)]


def evaluate_batches(
    dataset: AlignedDataset,
    prepare: Prepare,
    collate: Collate,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    seed: int = 0,
    max_samples: int | None = None,
    pin_memory: bool | None = None,
) -> Iterator[Any]:
    """Every sample once, in the order of the data, with the same crops and masks each time.

    The last batch may be smaller than the others.

    Args:
        dataset: what to evaluate on.
        prepare: sample and generator -> item of a batch.
        collate: items -> batch.
        batch_size: samples per rank and batch.
        rank: this process. A rank without samples in the last global batch yields one batch less than the others.
        world_size: number of processes.
        num_workers: loader processes.
        seed: seed of crops and masks.
        max_samples: only the first so many samples.
        pin_memory: page-locked batches; None: where CUDA is available.

    Raises:
        DataError: if data is damaged.
    """
    _check_sizes(batch_size, rank, world_size)
    count = len(dataset) if max_samples is None else min(len(dataset), max_samples)
    starts = range(rank * batch_size, count, batch_size * world_size)
    plans = [Plan([Draw(dataset.name, 0, n) for n in range(at, min(at + batch_size, count))]) for at in starts]
    assemble = _Assemble({dataset.name: dataset}, prepare, collate, seed)
    return iter(_load(plans, assemble, min(num_workers, len(plans)), pin_memory))


def _check_sizes(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected 1 or more samples per rank")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank}; expected a number from 0 to world_size - 1 = {world_size - 1}")


@dataclass(frozen=True)
class _Failure:
    """A user's error on its way out of a worker; torch would wrap the exception itself in a traceback."""

    kind: type[FourmError]
    message: str

    def error(self) -> FourmError:
        # Not through __init__: some of these classes build their message from other arguments.
        error = self.kind.__new__(self.kind)
        error.args = (self.message,)
        return error


class _Assemble:
    """Numbers -> batch. Runs in workers; picklable if `prepare` and `collate` are."""

    def __init__(
        self,
        datasets: Mapping[str, AlignedDataset],
        prepare: Prepare | Mapping[str, Prepare],
        collate: Collate,
        seed: int,
        skip_damaged: bool = False,
    ) -> None:
        self.datasets, self.collate, self.seed, self.skip_damaged = dict(datasets), collate, seed, skip_damaged
        self.prepare = prepare if isinstance(prepare, Mapping) else dict.fromkeys(datasets, prepare)

    def __getitem__(self, plan: Plan) -> Any:
        try:
            item = self.whole_item if self.skip_damaged else self.item
            return self.collate([item(draw, plan.resolution) for draw in plan.draws])
        except FourmError as error:
            return _Failure(type(error), str(error))

    def whole_item(self, draw: Draw, resolution: int | None) -> Any:
        """The item of a draw, or of another sample if it cannot be read: the same one whoever loads it."""
        # Not of the next sample: where a shard is cut short, that is damaged too.
        instead = generator(self.seed, *draw, "instead")
        for tries in range(_DAMAGED_IN_A_ROW):
            n = int(instead.integers(len(self.datasets[draw.dataset]))) if tries else draw.n
            try:
                return self.item(draw._replace(n=n), resolution)
            except DataError as error:
                logger.warning("left out, since data.damaged is skip: %s", error)
                damage = error
        raise DataError(f"{_DAMAGED_IN_A_ROW} samples in a row are damaged, the last one: {damage}") from damage

    def item(self, draw: Draw, resolution: int | None) -> Any:
        # Augmentation has a stream of its own: switching it on or off leaves the masks as they are.
        dataset: Any = self.datasets[draw.dataset]
        if hasattr(dataset, "at_epoch"):  # rows of packed documents are others in every epoch
            dataset = dataset.at_epoch(self.seed, draw.epoch)
        read = getattr(dataset, "open", dataset.sample)  # where values can be read as they are used, they are
        sample = read(draw.n, generator(self.seed, *draw, "augment"), resolution)
        try:
            return self.prepare[draw.dataset](sample, generator(self.seed, *draw))
        except DataError as error:
            if getattr(sample, "failed", False):
                raise
            raise DataError(f"data set '{dataset.name}', {dataset.source.where(draw.n)}: {error}") from error


def _load(
    plans: Iterable[Plan],
    assemble: _Assemble,
    num_workers: int,
    pin_memory: bool | None,
    timeout_seconds: float | None = None,
) -> Iterator[Any]:
    """Batches for plans, in order, loaded by `num_workers` processes."""
    from torch import cuda
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        assemble,  # type: ignore[arg-type]
        sampler=plans,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=_PREFETCHED_BATCHES if num_workers else None,
        pin_memory=cuda.is_available() if pin_memory is None else pin_memory,
        collate_fn=_unchanged,
        timeout=(timeout_seconds or 0) if num_workers else 0,
    )
    batches = iter(loader)
    try:
        while (batch := _next(batches)) is not _END:
            if isinstance(batch, _Failure):
                raise batch.error()
            yield batch
    finally:
        # At once, not when the iterator is collected: the queues may be collected first, and then the workers never
        # hear of the end.
        if num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]


_END = object()


def _next(batches: Iterator[Any]) -> Any:
    try:
        return next(batches, _END)
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        if "DataLoader timed out" in str(error):
            raise StorageError(
                f"a batch took longer than data.timeout_seconds ({batches._timeout:g}): storage stalls, or there are "  # type: ignore[attr-defined]
                "too few data.num_workers. The same command goes on from the newest checkpoint"
            ) from error
        if not _tells_of_a_dead_worker(error, batches):
            raise
        raise DataError(
            f"a loader process died ({error}). It probably ran out of memory: use fewer num_workers or smaller "
            "batches, and give containers more shared memory (--shm-size)"
        ) from error


def _tells_of_a_dead_worker(error: Exception, batches: Iterator[Any]) -> bool:
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    # What the process had prepared cannot be fetched from it any more. What it raised itself says "Caught ...".
    return bool(getattr(batches, "_num_workers", 0)) and "Caught " not in str(error)


def _unchanged(batch: Any) -> Any:
    return batch
