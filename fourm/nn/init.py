"""Initial weights that depend only on the seed and the name of each module, not on construction order or device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fourm.rng import torch_seed


@runtime_checkable
class HasInitialWeights(Protocol):
    """A module that fills its own direct parameters."""

    def fill_parameters(self, generator: torch.Generator) -> None: ...


@runtime_checkable
class HasTables(Protocol):
    """A module with constant tables that follow from its config and are in no checkpoint."""

    def fill_tables(self) -> None: ...


@runtime_checkable
class HasWeights(Protocol):
    """A module whose weights, and those of its parts, may be there already, such as a published network."""

    has_weights: bool


@torch.no_grad()
def adopt_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give weights to a model that was built on the meta device; none is copied.

    Args:
        model: its tensors are replaced by those of `state`, and its constant tables are computed.
        state: one name suffices for a tensor that the model has under several.

    Raises:
        ValueError: naming weights that are missing, left over or of another shape.
    """
    try:
        outcome = model.load_state_dict(dict(state), strict=False, assign=True)
    except RuntimeError as error:
        raise ValueError(str(error).partition("\n\t")[2] or str(error)) from None
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing or outcome.unexpected_keys:
        left = outcome.unexpected_keys
        raise ValueError(f"missing: {', '.join(missing[:8]) or 'none'}; left over: {', '.join(left[:8]) or 'none'}")
    fill_tables(model)


@torch.no_grad()
def fill_tables(model: nn.Module) -> None:
    """Compute the constant tables of a model that was built on the meta device."""
    for module in model.modules():
        if isinstance(module, HasTables):
            module.fill_tables()


@torch.no_grad()
def initialise(model: nn.Module, seed: int, std: float | None = None) -> None:
    """Fill all parameters: Xavier-uniform linear layers, or normal ones of deviation `std`; zero biases, unit norms.

    Modules with `fill_parameters` fill their own. Fused projections (`qkv`, `kv`) are initialised as the separate
    layers they stand for. What `has_weights` keeps them.
    """
    done: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, HasWeights) and module.has_weights:
            done += (f"{name}.",)
        generator = torch.Generator().manual_seed(torch_seed(seed, "weights", name))
        if isinstance(module, HasTables):
            module.fill_tables()
        if f"{name}.".startswith(done):
            continue
        if isinstance(module, HasInitialWeights):
            module.fill_parameters(generator)
        elif isinstance(module, nn.Linear):
            if std is None:
                fill_xavier(module.weight, generator, _fused(model, name, *module.weight.shape))
            else:
                fill_normal(module.weight, generator, std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            for key, parameter in module.named_parameters(recurse=False):
                parameter.fill_(1.0 if key == "weight" else 0.0)


def _fused(model: nn.Module, name: str, rows: int, columns: int) -> list[int]:
    """Rows of the layers that one weight holds: queries, keys and values; or keys and values."""
    owner, _, leaf = name.rpartition(".")
    if leaf == "qkv":
        queries = getattr(model.get_submodule(owner), "query_dim", columns)
        return [queries, (rows - queries) // 2, (rows - queries) // 2]
    return [rows // 2, rows // 2] if leaf == "kv" else [rows]


def fill_xavier(weight: Tensor, generator: torch.Generator, parts: Sequence[int] = ()) -> None:
    """Xavier-uniform values (Glorot and Bengio 2010), drawn on the host.

    Args:
        weight: (out, in).
        generator: source of randomness.
        parts: rows of the layers stacked in `weight`, each scaled on its own; one by default.
    """
    rows, columns = weight.shape
    sizes = torch.tensor(parts or [rows])
    bound = (6.0 / (sizes + columns)).sqrt().repeat_interleave(sizes)[:, None]
    weight.copy_((torch.rand(rows, columns, generator=generator) * 2 - 1) * bound)


def fill_normal(weight: Tensor, generator: torch.Generator, std: float) -> None:
    """Normal values, drawn on the host."""
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
