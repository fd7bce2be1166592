"""What a training step of a model on the meta device would take: operations by part, and memory at its peak."""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fourm.modality import ModalitySet
from fourm.objectives.base import Objective
from fourm.recipe.schema import PretrainRecipe
from fourm.recipe.synthetic import synthetic
from fourm.registry import implementation
from fourm.rng import generator

BACKWARD = 2
"""Products of the backward pass for each of the forward pass: one for the inputs, one for the weights."""
_FUSED = "scaled_dot_product_attention"
_PRODUCTS = ("linear", "addmm", "matmul", "bmm", "baddbmm", "einsum", "conv", _FUSED)
_REST = "heads"
_SAMPLES = 4


def flops_per_sample(recipe: PretrainRecipe, modalities: ModalitySet, objective: Objective) -> float:
    """Operations of the model for one sample, forward and backward, at the budgets of the recipe."""
    with torch.device("meta"):
        model = implementation(recipe.model.target)(modalities, recipe.model)
    rng = generator(recipe.seed, "check")
    asked: Any = getattr(objective, "of", objective)  # a teacher's work is not the model's
    items = [asked.prepare(synthetic(recipe, modalities, rng), rng) for _ in range(_SAMPLES)]
    flops = forward_flops(model, asked, asked.collate(items).to("meta"))
    return (1 + BACKWARD) * sum(flops.values()) / _SAMPLES


class _Score(nn.Module):
    """The loss of one batch as a module without arguments, as tracing wants it."""

    def __init__(self, model: nn.Module, objective: Objective, batch: Any) -> None:
        super().__init__()
        self.model = model
        self._objective, self._batch = (objective,), batch

    def forward(self, _: Tensor) -> Tensor:
        loss = self._objective[0].loss(self.model, self._batch)
        return torch.stack([total for total, _ in loss.parts.values()])


def forward_flops(model: nn.Module, objective: Objective, batch: Any) -> dict[str, int]:
    """Floating point operations of the products in one forward pass, two for each multiply-add, counted by fvcore.

    Args:
        model: on the meta device.
        objective: scores it.
        batch: on the meta device.

    Returns:
        part of the model -> operations; what belongs to no part's module, as the products of heads, counts as `heads`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports and traces with what torch calls deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(_Score(model, objective, batch), (torch.zeros(1, device="meta"),))
        analysis.set_op_handle(f"aten::{_FUSED}", _attention_products)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_module = analysis.by_module_and_operator()
    counts = {name: sum(ops[kind] for kind in _PRODUCTS if kind in ops) * 2 for name, ops in by_module.items()}
    parts = {name: counts.get(f"model.{name}", 0) for name, _ in model.named_children()}
    rest = counts[""] - sum(parts.values())
    parts[_REST] = parts.get(_REST, 0) + rest
    return {name: int(count) for name, count in parts.items() if count}


def _attention_products(inputs: list[Any], _: list[Any]) -> Counter[str]:
    """Multiply-adds of queries (..., Q, d) with keys (..., K, d), and of the answers with values of that form."""
    query, key = (value.type().sizes() for value in inputs[:2])
    return Counter({_FUSED: 2 * math.prod(query) * key[-2]})


def peak_activation_bytes(model: nn.Module, step: Callable[[], Tensor]) -> int:
    """Most bytes that a step holds beside weights, gradients and optimizer state.

    Args:
        model: on the meta device.
        step: the forward pass of one batch; gives its loss.
    """
    with _without_gradients(model), _LiveBytes() as live:
        step().backward()
    return live.peak


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Gradients of weights are let go as soon as they are there: they count as state."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    handles = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations made and that are still in use, and their most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage(), given)
        return result

    def _note(self, storage: Any, given: set[int]) -> None:
        place = id(storage)
        if place in self._known or place in given:
            return
        self._known.add(place)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.live -= size
