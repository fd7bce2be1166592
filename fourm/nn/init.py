"""Initial weights that depend only on the seed and the name of each module, not on construction order, device or sharding."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fourm.rng import torch_seed


@runtime_checkable
class HasInitialWeights(Protocol):
    """A module that fills its own direct parameters."""

    def fill_parameters(self, generator: torch.Generator) -> None: ...


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill all parameters: Xavier-uniform linear layers, zero biases, unit norms, and what modules with `fill_parameters` say of their own.

    Fused projections (`qkv`, `kv`) are initialised as the separate square layers they stand for.
    """
    for name, module in model.named_modules():
        generator = torch.Generator().manual_seed(torch_seed(seed, "weights", name))
        if isinstance(module, HasInitialWeights):
            module.fill_parameters(generator)
        elif isinstance(module, nn.Linear):
            parts = {"qkv": 3, "kv": 2}.get(name.rpartition(".")[2], 1)
            fill_xavier(module.weight, generator, fan_out=module.weight.shape[0] // parts)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            for key, parameter in module.named_parameters(recurse=False):
                parameter.fill_(1.0 if key == "weight" else 0.0)


def fill_xavier(weight: Tensor, generator: torch.Generator, fan_out: int | None = None) -> None:
    """Xavier-uniform values (Glorot and Bengio 2010) for a (out, in) matrix, drawn on the host."""
    rows, columns = weight.shape
    bound = math.sqrt(6.0 / ((fan_out or rows) + columns))
    weight.copy_((torch.rand(rows, columns, generator=generator) * 2 - 1) * bound)


def fill_normal(weight: Tensor, generator: torch.Generator, std: float) -> None:
    """Normal values, drawn on the host."""
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
