"""Initial weights: a function of seed and name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fourm.nn.attention import Attention
from fourm.nn.init import adopt_weights, fill_normal, fill_xavier, initialise


class Forward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 8)


class Backward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.randn(3)
        self.b = nn.Linear(4, 8)
        self.a = nn.Linear(4, 4)


def weights(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    initialise(model, seed)
    return dict(model.state_dict())


def test_the_order_of_construction_does_not_matter() -> None:
    one, other = weights(Forward()), weights(Backward())
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = Forward()
    torch.set_rng_state(state)
    first = weights(one)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = weights(Forward())
    assert torch.equal(first["a.weight"], second["a.weight"])


def test_seeds_and_names_give_different_weights() -> None:
    assert not torch.equal(weights(Forward(), 0)["a.weight"], weights(Forward(), 1)["a.weight"])
    first = weights(Forward())
    assert not torch.equal(first["a.weight"], first["b.weight"][:4])


def test_materialised_weights_equal_those_made_on_the_host() -> None:
    with torch.device("meta"):
        late = Forward()
    late.to_empty(device="cpu")
    one, other = weights(late), weights(Forward())
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_linear_layers_are_xavier_uniform_with_zero_biases() -> None:
    layer = nn.Linear(300, 200)
    initialise(layer, 0)
    bound = math.sqrt(6 / 500)
    assert layer.weight.abs().max() <= bound
    # Variance of a uniform variable in +-bound, from 60,000 draws.
    assert math.isclose(layer.weight.detach().var(), bound**2 / 3, rel_tol=0.02)
    assert (layer.bias == 0).all()


def test_fused_projections_are_scaled_as_the_layers_they_stand_for() -> None:
    layer = Attention(64, 4, num_kv_heads=2)
    initialise(layer, 0)
    for part, rows in ((layer.qkv.weight[:64], 64), (layer.qkv.weight[64:96], 32), (layer.qkv.weight[96:], 32)):
        bound = math.sqrt(6 / (rows + 64))
        assert 0.98 * bound < part.abs().max() <= bound
    wide = Attention(64, 4, num_kv_heads=2, head_dim=48)
    initialise(wide, 0)
    for part, rows in ((wide.qkv.weight[:192], 192), (wide.qkv.weight[192:288], 96), (wide.qkv.weight[288:], 96)):
        bound = math.sqrt(6 / (rows + 64))
        assert 0.98 * bound < part.abs().max() <= bound
    cross = Attention(64, 4, cross=True)
    initialise(cross, 0)
    assert 0.98 * math.sqrt(6 / 128) < cross.kv.weight.abs().max() <= math.sqrt(6 / 128)


def test_norms_start_as_the_identity() -> None:
    norm = nn.LayerNorm(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    initialise(norm, 0)
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


def test_fillers_work_in_place_on_slices() -> None:
    table = torch.zeros(6, 4)
    generator = torch.Generator().manual_seed(0)
    fill_normal(table[:2], generator, 0.5)
    fill_xavier(table[2:4], generator)
    assert (table[:4] != 0).all()
    assert (table[4:] == 0).all()


def test_a_module_may_fill_its_own_parameters() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3))

        def fill_parameters(self, generator: torch.Generator) -> None:
            self.weight.fill_(7.0)

    model = nn.Sequential(Own(), nn.Linear(2, 2))
    initialise(model, 0)
    assert (model[0].weight == 7).all()


class Tied(nn.Module):
    """A layer under two names, and a table that follows from the sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2, bias=False)
        self.b = self.a
        self.register_buffer("table", torch.empty(3), persistent=False)

    def fill_tables(self) -> None:
        self.table = torch.arange(3.0)


def built_on_meta() -> Tied:
    with torch.device("meta"):
        return Tied()


def test_a_model_on_the_meta_device_takes_weights_without_copying_them() -> None:
    model, given = built_on_meta(), torch.eye(2)
    adopt_weights(model, {"b.weight": given})
    assert model.a.weight.data_ptr() == given.data_ptr()
    assert model.a is model.b
    assert model.table.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"missing: a\.weight, b\.weight; left over: none"),
        ({"a.weight": torch.eye(2), "c": torch.eye(2)}, "missing: none; left over: c"),
        ({"a.weight": torch.eye(3)}, r"size mismatch for a\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adopt_weights(built_on_meta(), state)
