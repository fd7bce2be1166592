"""RandAugment and erasing: drawn from the sample's own generator, and nothing else is touched."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fourm.data.augment import draw_augmentation, erased
from fourm.errors import ConfigError

POLICY = "rand-m9-mstd0.5-inc1"


def photograph(channels: bool = True) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (24, 24, 3) if channels else (24, 24), np.uint8)


@pytest.mark.parametrize("channels", [True, False])
def test_the_same_generator_changes_a_photograph_in_the_same_way(channels: bool) -> None:
    pixels = photograph(channels)
    random.seed(5)
    expected = random.random()
    random.seed(5)

    first, again, other = (
        draw_augmentation(POLICY, 1.0, np.random.default_rng(seed))(pixels)  # type: ignore[misc]
        for seed in (1, 1, 2)
    )

    assert random.random() == expected
    assert (first.shape, first.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_is_drawn_where_there_is_nothing_to_do() -> None:
    rng = np.random.default_rng(0)

    assert draw_augmentation(None, 0.0, rng) is None
    assert rng.random() == np.random.default_rng(0).random()


def test_a_box_is_erased_that_lies_within_the_image() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    for draws in np.random.default_rng(0).random((50, 4)):
        share = (erased(pixels, draws) == 127).mean()
        assert 0.01 < share < 0.36
    assert pixels.max() == 0


@pytest.mark.parametrize("policy", ["randaugment", "rand-x9"])
def test_policies_that_timm_does_not_know_are_told(policy: str) -> None:
    with pytest.raises(ConfigError, match=f"rand_augment is '{policy}'"):
        draw_augmentation(policy, 0.0, np.random.default_rng(0))
