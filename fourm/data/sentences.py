"""Visual sentences: which pictures follow one another (LVM, Bai et al. 2023, sec. 3 and its supplement).

Every builder is a pure function from the numbers of samples to sentences of frames. What a frame looks like, and its
tokens, are made elsewhere (`fourm prepare sentences`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fourm.data.sentence_configs import (
    CategoryConfig,
    PairsConfig,
    RotationConfig,
    SentenceConfig,
    SingleConfig,
    VideoConfig,
)


class Frame(NamedTuple):
    """A picture.

    Args:
        row: number of the sample.
        view: which picture of it.
    """

    row: int
    view: str


Sentence = list[Frame]
Groups = Mapping[str, Sequence[int]]
"""Clips, objects or classes, by name: the numbers of their samples, in the order of `natural_order`."""


def natural_order(key: str) -> list[str | int]:
    """What sorts keys as people count: `clip/2` before `clip/10`, with or without leading zeros.

    Args:
        key: of a sample. The parts between its numbers are compared as text.
    """
    return [int(part) if n % 2 else part for n, part in enumerate(re.split("([0-9]+)", key))]


def build(config: SentenceConfig, rows: Sequence[int], groups: Groups, rng: np.random.Generator) -> list[Sentence]:
    """The sentences of a task.

    Args:
        config: of any kind.
        rows: samples to use.
        groups: of these samples; for kinds that need them.
        rng: source of all randomness.
    """
    from fourm.registry import implementation

    builder = implementation(config.target)
    return list(builder(config, groups if config.needs_groups else rows, rng))


def pairs(config: PairsConfig, rows: Sequence[int], rng: np.random.Generator) -> Iterator[Sentence]:
    """Every sample once, several to a sentence, each with all views of the sentence."""
    order = rng.permutation(np.asarray(rows, np.int64))
    place = 0
    while place < len(order):
        views = list(config.views)
        if config.fewest_views is not None:
            count = int(rng.integers(config.fewest_views, len(views) + 1))
            views = [views[i] for i in sorted(rng.permutation(len(views))[:count])]
        if config.shuffle:
            views = [views[i] for i in rng.permutation(len(views))]
        shots = config.num_images // len(views)
        yield _interleaved(order[place : place + shots], views)
        place += shots


def clips(config: VideoConfig, groups: Groups, rng: np.random.Generator) -> Iterator[Sentence]:
    """One sentence of each clip; clips of a single frame have none."""
    for rows in groups.values():
        count = min(config.num_images // len(config.views), len(rows))
        if count * len(config.views) < 2:
            continue
        largest = (len(rows) - 1) // max(count - 1, 1)
        stride = min(int(rng.choice(config.strides)), max(largest, 1))
        start = int(rng.integers(len(rows) - (count - 1) * stride))
        frames = np.asarray(rows)[start : start + (count - 1) * stride + 1 : stride]
        yield _interleaved(frames, config.views) if config.layout == "interleaved" else _grouped(frames, config.views)


def turns(config: RotationConfig, groups: Groups, rng: np.random.Generator) -> Iterator[Sentence]:
    """One sentence of each object."""
    for rows in groups.values():
        count = min(config.num_images // len(config.views), len(rows))
        start, step = int(rng.integers(len(rows))), 1 if rng.random() < 0.5 else -1
        yield _interleaved(np.asarray(rows)[(start + step * np.arange(count)) % len(rows)], config.views)


def categories(config: CategoryConfig, groups: Groups, rng: np.random.Generator) -> Iterator[Sentence]:
    """Every sample once, beside others of its class; the classes come mixed."""
    sentences = []
    for rows in groups.values():
        order, shots = rng.permutation(np.asarray(rows, np.int64)), config.num_images // len(config.views)
        sentences += [_interleaved(order[i : i + shots], config.views) for i in range(0, len(order), shots)]
    yield from (sentences[i] for i in rng.permutation(len(sentences)))


def singles(config: SingleConfig, rows: Sequence[int], rng: np.random.Generator) -> Iterator[Sentence]:
    """Every sample once, alone."""
    for row in rng.permutation(np.asarray(rows, np.int64)):
        yield [Frame(int(row), config.views[int(rng.integers(len(config.views)))])]


def _interleaved(rows: NDArray[np.int64], views: Sequence[str]) -> Sentence:
    return [Frame(int(row), view) for row in rows for view in views]


def _grouped(rows: NDArray[np.int64], views: Sequence[str]) -> Sentence:
    return [Frame(int(row), view) for view in views for row in rows]
