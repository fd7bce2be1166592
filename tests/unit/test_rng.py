"""Counter-based randomness: a draw is a function of its key and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm import rng


def test_the_same_key_gives_the_same_draws() -> None:
    assert rng.generator(3, "masks", 5).random(4).tolist() == rng.generator(3, "masks", 5).random(4).tolist()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 2), (2, 1)),
        (("ab",), ("a", "b")),
        (("1",), (1,)),
        (("a\x1fs1:b",), ("a", "b")),
        ((1, 23), (12, 3)),
        ((), (0,)),
    ],
)
def test_different_keys_differ(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert rng.key_hash(*a) != rng.key_hash(*b)


def test_numpy_integers_are_the_same_keys_as_python_ones() -> None:
    assert rng.key_hash(np.int64(7), np.int32(-1)) == rng.key_hash(7, -1)


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError):
        rng.key_hash(0.5)  # type: ignore[arg-type]


def test_the_stream_of_a_key_stays_the_same_between_versions() -> None:
    assert rng.key_hash(0, "masks", 1, 2) == 0xFEFBA2236A2A47423B12A67AC0FD3962


def test_torch_seeds_fit_a_signed_integer() -> None:
    seeds = [rng.torch_seed(i, "weights") for i in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_uniform_draws_are_uniform() -> None:
    draws = rng.uniform(torch.arange(64)[:, None], 3, torch.arange(1000)[None]).double()
    assert draws.shape == (64, 1000)
    assert draws.min() > 0
    assert draws.max() < 1
    # 64,000 draws: mean .5 +- .0011, variance 1/12, ten equal bins of 6,400 +- 76, at 5 standard deviations.
    assert abs(draws.mean() - 0.5) < 5 * 0.0012
    assert abs(draws.var() - 1 / 12) < 0.002
    assert (torch.histc(draws, 10, 0, 1) - 6400).abs().max() < 5 * 76


def test_neighbouring_seeds_steps_and_positions_are_uncorrelated() -> None:
    draws = rng.uniform(
        torch.arange(40)[:, None, None], torch.arange(40)[None, :, None], torch.arange(40)[None, None]
    ).double()
    for axis in range(3):
        a = draws.narrow(axis, 0, 39).flatten()
        b = draws.narrow(axis, 1, 39).flatten()
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / len(a) ** 0.5


def test_seed_and_counter_cannot_stand_in_for_each_other() -> None:
    numbers = torch.arange(200)
    square = rng.uniform(numbers[:, None], numbers[None])
    assert not torch.equal(square, square.T)
    # Were they interchangeable in any way, many of these 40,000 draws would coincide; chance gives 95.
    assert len(square.unique()) > 40_000 - 200


def test_a_sample_draws_the_same_in_any_batch() -> None:
    seeds = torch.tensor([[11], [12], [13]])
    together = rng.uniform(seeds, 0, torch.arange(5))
    alone = rng.uniform(seeds[1:2], 0, torch.arange(5))
    assert torch.equal(together[1:2], alone)


def test_normal_draws_are_normal_and_keyed_as_uniform_ones() -> None:
    draws = rng.normal(torch.arange(200)[:, None], 3, torch.arange(1000)).flatten().sort().values
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99]))
    found = draws[(torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99]) * len(draws)).long()]
    torch.testing.assert_close(found, quantiles, rtol=0, atol=0.02)
    alone = rng.normal(torch.tensor([[7]]), 3, torch.arange(1000))
    assert torch.equal(alone, rng.normal(torch.arange(200)[:, None], 3, torch.arange(1000))[7:8])


def test_large_and_negative_seeds_work() -> None:
    draws = rng.uniform(torch.tensor([2**63 - 1, -(2**63), -1, 0]), 0)
    assert len(draws.unique()) == 4


def test_generators_are_those_of_philox_with_the_key() -> None:
    for key in [(0, "masks", 3), (1, 2), ("a",)]:
        plain = np.random.Generator(np.random.Philox(key=rng.key_hash(*key)))
        ours = rng.generator(*key)
        assert str(ours.bit_generator.state) == str(plain.bit_generator.state)
        assert np.array_equal(ours.permutation(99), plain.permutation(99))
