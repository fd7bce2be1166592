"""The order of samples: what must hold for any sizes, seeds, batch sizes, weights and ranks."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fourm.data.loader import Loader
from fourm.data.mixture import Mixture, MixtureOrder
from fourm.data.order import ShuffledOrder, WeightedChoice

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(any)
SEEDS = st.integers(0, 2**40)
WINDOWS = st.integers(1, 10)


class Numbers:
    """A data set without files: its samples are their numbers."""

    def __init__(self, name: str, shard_sizes: list[int]) -> None:
        self.name = name
        self.shard_sizes = shard_sizes

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        return {"n": n, "augment": rng.integers(2**30), "resolution": resolution}


def mixture(sizes: list[list[int]], weights: list[float]) -> Mixture:
    names = [f"set{i}" for i in range(len(sizes))]
    datasets: Any = {name: Numbers(name, size) for name, size in zip(names, sizes, strict=True)}
    return Mixture(datasets, dict(zip(names, weights, strict=True)))


MIXTURES = st.lists(st.tuples(SIZES, st.floats(0.1, 10)), min_size=1, max_size=3).map(
    lambda parts: mixture([size for size, _ in parts], [weight for _, weight in parts])
)


def batches(source: Mixture, count: int, **options: Any) -> tuple[list[list[tuple[int, int, int]]], dict[str, Any]]:
    """Some batches of items (number, augmentation draw, mask draw), and the cursor after them."""
    loader = Loader(
        source, lambda sample, rng: (sample["n"], int(sample["augment"]), int(rng.integers(2**30))), list, **options
    )
    found = list(islice(loader, count))
    return [batch for batch, _ in found], found[-1][1]


@given(SIZES, SEEDS, WINDOWS, st.integers(0, 3))
def test_every_sample_comes_exactly_once_per_epoch(sizes: list[int], seed: int, window: int, epoch: int) -> None:
    order = ShuffledOrder(sizes, seed, "set", window)
    count = sum(sizes)
    drawn = [order.sample(epoch * count + place) for place in range(count)]
    assert {e for e, _ in drawn} == {epoch}
    assert sorted(n for _, n in drawn) == list(range(count))


@given(SIZES, SEEDS, WINDOWS, st.lists(st.integers(0, 100), min_size=1, max_size=10))
def test_the_order_does_not_depend_on_what_was_asked_before(
    sizes: list[int], seed: int, window: int, places: list[int]
) -> None:
    used = ShuffledOrder(sizes, seed, "set", window)
    for place in places:
        assert used.sample(place) == ShuffledOrder(sizes, seed, "set", window).sample(place)


@given(SIZES, SEEDS, WINDOWS)
def test_samples_stay_within_the_window_of_their_shard(sizes: list[int], seed: int, window: int) -> None:
    order = ShuffledOrder(sizes, seed, "set", window)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    shards = [int(shard_of[order.sample(place)[1]]) for place in range(sum(sizes))]
    for start, first in enumerate(shards):
        # Once a shard has been left behind for a whole window, it does not come back.
        last = len(shards) - 1 - shards[::-1].index(first)
        assert len(set(shards[start : last + 1])) <= window


@given(st.lists(st.floats(0, 5), min_size=1, max_size=4).filter(lambda w: sum(w) > 0.1), SEEDS)
def test_a_weighted_choice_is_a_function_of_its_number(weights: list[float], seed: int) -> None:
    used = WeightedChoice(weights, seed)
    draws = [used(i) for i in (0, 5000, 1, 4095, 4096, 0)]
    assert draws == [WeightedChoice(weights, seed)(i) for i in (0, 5000, 1, 4095, 4096, 0)]
    assert all(weights[choice] > 0 for choice in draws)


def test_a_weighted_choice_keeps_to_its_weights() -> None:
    choice = WeightedChoice([3.0, 0.0, 1.0], seed=1)
    counts = Counter(choice(i) for i in range(20_000))
    assert counts[1] == 0
    assert abs(counts[0] / 20_000 - 0.75) < 0.02


@given(MIXTURES, SEEDS, st.integers(0, 40), st.integers(1, 20))
def test_an_order_entered_at_a_cursor_goes_on_as_it_would_have(
    source: Mixture, seed: int, before: int, after: int
) -> None:
    order = MixtureOrder(source, seed, 2)
    for _ in range(before):
        order.next()
    resumed = MixtureOrder(source, seed, 2, start=order.cursor)
    assert [order.next() for _ in range(after)] == [resumed.next() for _ in range(after)]


@given(MIXTURES, SEEDS, st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_a_loader_started_at_a_cursor_yields_what_came_after_it(
    source: Mixture, seed: int, batch_size: int, before: int, after: int
) -> None:
    whole, end = batches(source, before + after, batch_size=batch_size, seed=seed)
    _, cursor = batches(source, before, batch_size=batch_size, seed=seed)
    resumed, resumed_end = batches(source, after, batch_size=batch_size, seed=seed, start=cursor)
    assert resumed == whole[before:]
    assert resumed_end == end


@given(MIXTURES, SEEDS, st.sampled_from([(6, 1), (3, 2), (2, 3), (1, 6)]))
def test_ranks_partition_the_same_global_batches(source: Mixture, seed: int, split: tuple[int, int]) -> None:
    batch_size, world_size = split
    single, end = batches(source, 3, batch_size=6, seed=seed)
    ranks = [
        batches(source, 3, batch_size=batch_size, rank=rank, world_size=world_size, seed=seed)
        for rank in range(world_size)
    ]
    for step in range(3):
        assert [item for found, _ in ranks for item in found[step]] == single[step]
    assert all(cursor == end for _, cursor in ranks)


RESOLUTIONS = st.lists(st.integers(1, 500), min_size=1, max_size=8).map(tuple)


def resolutions(source: Mixture, count: int, **options: Any) -> tuple[list[int], dict[str, Any]]:
    """The one resolution of each batch, and the cursor after them."""
    found = list(islice(Loader(source, lambda sample, _: sample["resolution"], set, **options), count))
    return [one for (one,) in (batch for batch, _ in found)], found[-1][1]


@given(MIXTURES, SEEDS, RESOLUTIONS, st.sampled_from([(4, 1), (2, 2), (1, 4)]), st.integers(1, 3), st.integers(0, 9))
def test_every_step_has_one_resolution_for_any_ranks_micro_batches_and_start(
    source: Mixture, seed: int, choices: tuple[int, ...], split: tuple[int, int], accumulation: int, before: int
) -> None:
    size, world_size = split
    options: dict[str, Any] = {"seed": seed, "resolutions": choices, "step_size": 4 * accumulation}
    steps, _ = resolutions(source, 10, batch_size=4 * accumulation, **options)
    options |= {"batch_size": size, "world_size": world_size}
    start = None if before == 0 else resolutions(source, before, **options)[1]
    for rank in range(world_size):
        found, _ = resolutions(source, 10, rank=rank, start=start, **options)
        expected = [step for step in steps for _ in range(accumulation)][before:]
        assert found[: len(expected)] == expected[:10]


def test_resolutions_come_equally_often() -> None:
    found, _ = resolutions(mixture([[5]], [1.0]), 4000, batch_size=1, seed=3, resolutions=(224, 256, 288, 320))
    counts = Counter(found)
    assert set(counts) == {224, 256, 288, 320}
    assert all(abs(count - 1000) < 120 for count in counts.values())
