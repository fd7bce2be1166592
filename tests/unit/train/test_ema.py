import torch

from fourm.train.ema import WeightAverage
from tests.unit.train.toy import ToyModel


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
