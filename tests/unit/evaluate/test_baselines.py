from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from fourm.evaluate.baselines import FrequentObjects, PixelMean, PixelMode, one_pixel_per_token
from fourm.evaluate.metrics import set_counts
from fourm.layouts import Grid


def test_mean_does_not_depend_on_the_batches() -> None:
    images = torch.rand(7, 1, 4, 4)
    whole, parts = PixelMean(), PixelMean()
    whole.add(images)
    for part in images.split(3):
        parts.add(part)
    assert torch.equal(whole.image(), parts.image())
    assert torch.allclose(whole.image(), images.mean(0))


def test_mean_normals_have_length_one() -> None:
    mean = PixelMean()
    mean.add(torch.nn.functional.normalize(torch.randn(5, 3, 4, 4), dim=1))
    assert torch.allclose(mean.image(unit=True).norm(dim=0), torch.ones(4, 4))


def test_mode_is_taken_per_pixel_without_void() -> None:
    mode = PixelMode(3)
    mode.add(torch.tensor([[[0, 2, -1]], [[0, 1, -1]]]))
    mode.add(torch.tensor([[[1, 1, 2]]]))
    assert mode.labels().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_frequent_objects_are_the_best_of_all_fixed_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = "abcde"
    sets = [{n for n in names if rng.random() < p} for p in rng.random(20)]
    frequent = FrequentObjects()
    frequent.add(sets)
    every = [set(chosen) for k in range(6) for chosen in combinations(names, k)]
    best = max(set_counts([chosen] * len(sets), sets).f1 for chosen in every)
    assert set_counts([frequent.best()] * len(sets), sets).f1 == pytest.approx(best)


def test_no_objects_anywhere_give_the_empty_set() -> None:
    frequent = FrequentObjects()
    frequent.add([set(), set()])
    assert frequent.best() == frozenset()


def test_one_pixel_per_token_keeps_what_is_coarse_and_loses_what_is_fine() -> None:
    grid = Grid(4, 4, 8)
    flat = torch.full((1, 3, 32, 32), 0.3)
    checks = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float().expand(1, 1, 32, 32)
    assert torch.allclose(one_pixel_per_token(flat, grid), flat, atol=1e-5)
    assert torch.allclose(one_pixel_per_token(checks, grid)[..., 8:24, 8:24], torch.tensor(0.5), atol=0.02)
