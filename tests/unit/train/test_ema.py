import numpy as np
import pytest
import torch

from fourm.train.ema import WeightAverage
from tests.unit.train.toy import ToyModel
from tests.unit.train.toy_tokenizer import KINDS, Waves, tokenizer


def test_the_mean_follows_the_recurrence_with_its_warm_up() -> None:
    model = ToyModel()
    average = WeightAverage(model, 0.5)
    expected = model.embed.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            model.embed.weight.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.embed.weight.detach()
    torch.testing.assert_close(average.mean["embed.weight"], expected)


def test_the_model_carries_the_mean_only_inside_the_block() -> None:
    model = ToyModel()
    average = WeightAverage(model, 0.9)
    start = model.embed.weight.detach().clone()
    with torch.no_grad():
        model.embed.weight.add_(1.0)
    with average.applied():
        assert torch.equal(model.embed.weight, start)
    assert torch.equal(model.embed.weight, start + 1.0)


def test_restarting_takes_the_present_weights() -> None:
    model = ToyModel()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.embed.weight.add_(1.0)
    average.restart()
    assert torch.equal(average.mean["embed.weight"], model.embed.weight)


def waves(count: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(Waves().sample(n, np.random.default_rng(n))["waves"]) for n in range(count)])


def test_an_averaged_encoder_has_the_present_codebook() -> None:
    model = tokenizer("vqvae").train()
    average = WeightAverage(model, 0.9)
    for step in range(12):
        with torch.no_grad():
            model.quant_proj.weight.mul_(1.1)
        model(waves(8))
        average.update(step)
    present = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with average.applied():
        assert all(torch.equal(buffer, present[name]) for name, buffer in model.named_buffers())
        assert torch.equal(model.quant_proj.weight, average.mean["quant_proj.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_a_frozen_encoder_gives_the_same_tokens_bit_for_bit(kind: str) -> None:
    model = tokenizer(kind, freeze_encoder=True).train()
    before, decoder = model.hash, next(model.decoder.parameters())
    start = decoder.detach().clone()
    average = WeightAverage(model, 0.9)
    for step in range(30):
        model(waves(2))
        with torch.no_grad():
            decoder.add_(0.1)
        average.update(step)
    with average.applied():
        assert model.hash == before
        assert not torch.equal(decoder, start)
