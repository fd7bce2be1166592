from __future__ import annotations

import itertools
import math

import pytest
import torch

from fourm.tokenizers.fsq import FSQ
from fourm.tokenizers.quantizer_configs import FSQConfig

LEVELS = (8, 5, 3)


def make(*levels: int) -> FSQ:
    return FSQ(FSQConfig(levels))


def test_the_vocabulary_is_the_product_of_the_levels():
    assert make(8, 8, 8, 6, 5).vocab_size == 15_360
    assert make(7, 5, 5, 5, 5).vocab_size == 4_375


def test_codes_are_all_combinations_of_even_steps_the_first_channel_fastest():
    """L levels are the multiples of 1 / floor(L / 2) from -1 on."""
    steps = [[(k - size // 2) / (size // 2) for k in range(size)] for size in LEVELS]
    expected = [combination[::-1] for combination in itertools.product(*reversed(steps))]
    torch.testing.assert_close(make(*LEVELS).codebook, torch.tensor(expected))


def test_every_code_is_its_own_nearest():
    """Latents in the middle of each code's cell; tanh is inverted by hand."""
    quantizer = make(*LEVELS)
    ids = torch.arange(quantizer.vocab_size)
    latents = []
    for code in quantizer.codebook.tolist():
        channels = []
        for value, size in zip(code, LEVELS):
            amplitude, offset = (size - 1) * 1.001 / 2, 0.5 * (size % 2 == 0)
            inside = 0.999 * (value * (size // 2) + offset) / amplitude
            channels.append(math.atanh(inside) - math.atanh(offset / amplitude))
        latents.append(channels)
    assert torch.equal(quantizer.assign(torch.tensor(latents)), ids)


@pytest.mark.parametrize("size", [3, 4, 5, 8])
def test_zero_is_the_zero_code_and_far_latents_are_the_outermost(size):
    quantizer = make(size)
    digits = quantizer.assign(torch.tensor([[-50.0], [0.0], [50.0]])).tolist()
    assert digits == [0, size // 2, size - 1]


@pytest.mark.parametrize("size", [4, 5])
def test_rounding_is_to_the_nearest_level_of_the_bounded_latent(size):
    quantizer = make(size)
    z = torch.linspace(-4, 4, 401)[:, None]
    amplitude, offset = (size - 1) * 1.001 / 2, 0.5 * (size % 2 == 0)
    bounded = amplitude * torch.tanh(z[:, 0] + math.atanh(offset / amplitude)) - offset
    levels = torch.arange(size) - size // 2
    nearest = (bounded[:, None] - levels).abs().argmin(1)
    assert (quantizer.assign(z) == nearest).float().mean() > 0.99  # ties fall either way
    assert quantizer.assign(z).unique().tolist() == list(range(size))


def test_gradients_pass_the_rounding_and_not_the_bound():
    """d vector / d z = a (1 - tanh(z)^2) / floor(L / 2) for an odd L."""
    quantizer = make(5, 5)
    z = torch.tensor([[[[0.3, -1.2]]]], requires_grad=True)
    quantizer(z).vectors.sum().backward()
    expected = 2.002 * (1 - torch.tanh(z.detach()) ** 2) / 2
    torch.testing.assert_close(z.grad, expected)


def test_nothing_is_learned_and_nothing_has_to_commit():
    quantizer = make(*LEVELS)
    assert not list(quantizer.parameters())
    assert quantizer(torch.randn(3, 2, 2, 3)).commitment.tolist() == [0, 0, 0]


def test_the_table_of_codes_ends_at_65_536():
    assert make(16, 16, 16, 16).codebook.shape == (65_536, 4)
    large = make(16, 16, 16, 17)
    assert large.codebook is None
    ids = torch.tensor([[[0, 65_536, large.vocab_size - 1]]])
    vectors = large.lookup(ids)
    amplitude = torch.tensor([16, 16, 16, 17])
    assert vectors[0, 0, 2].tolist() == ((amplitude - 1 - amplitude // 2) / (amplitude // 2)).tolist()


def test_a_spread_out_input_uses_all_codes_from_the_first_step():
    quantizer = make(5, 5, 5)
    torch.manual_seed(0)
    quantizer(torch.randn(8, 16, 16, 3))
    assert quantizer.usage()["used"] == 125
    assert quantizer.usage()["perplexity"] > 80
