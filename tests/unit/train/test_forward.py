import torch
from torch import nn

from fourm.train.forward import LossModule
from tests.unit.train.toy import ToyBatch, ToyModel, ToyObjective


def test_it_gives_the_loss_followed_by_the_sums_of_the_parts() -> None:
    model, batch = ToyModel(), ToyBatch(torch.tensor([0, 1, 2, 2]))
    scalar, values = LossModule(model, ToyObjective(), "cpu", bf16=False)(batch, {"even": 3.0, "odd": 1.0})
    even = (model.answer("even", torch.tensor([0, 2, 2])) - torch.sin(torch.tensor([0.0, 2, 2]))).square().sum()
    odd = (model.answer("odd", torch.tensor([1])) - torch.sin(torch.tensor([1.0]))).square().sum()
    torch.testing.assert_close(values, torch.stack([(even + odd) / 4, even, odd]).detach())
    assert scalar.requires_grad
    assert not values.requires_grad


def test_only_the_model_is_registered_even_if_the_objective_is_a_module() -> None:
    class ModuleObjective(ToyObjective, nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.calls_left = None
            self.teacher = nn.Linear(2, 2)

    model = ToyModel()
    names = {name for name, _ in LossModule(model, ModuleObjective(), "cpu", bf16=False).named_parameters()}
    assert names == {f"model.{name}" for name, _ in model.named_parameters()}


def test_bf16_computes_in_bfloat16_with_float32_weights() -> None:
    class Spy(ToyModel):
        def answer(self, part: str, ids: torch.Tensor) -> torch.Tensor:
            out = super().answer(part, ids)
            self.dtype = out.dtype
            return out

    model = Spy()
    module = LossModule(model, ToyObjective(), "cpu", bf16=True)
    scalar, _ = module(ToyBatch(torch.arange(4)), {"even": 2.0, "odd": 2.0})
    assert model.dtype == torch.bfloat16
    assert model.embed.weight.dtype == torch.float32
    assert scalar.dtype == torch.float32
