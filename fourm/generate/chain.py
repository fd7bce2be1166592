"""Following a plan: batch by batch, and model by model where its steps name several."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate import outputs
from fourm.generate.branches import Facts
from fourm.generate.bundle import Bundle, home
from fourm.generate.ensemble import entropy
from fourm.generate.handover import as_given, readable
from fourm.generate.inputs import GivenValue
from fourm.generate.plan import GenerationPlan
from fourm.generate.sampler import Generated, Sampler
from fourm.rng import torch_seed
from fourm.tokens import SpecialIds

Answers = dict[str, Any]
_SEEDS = 1 << 63


def sample_seeds(seed: int, count: int) -> Tensor:
    """(count,) seeds; the first ones are the same for any count."""
    return torch.tensor([torch_seed(seed, "sample", number) for number in range(count)], dtype=torch.int64)


def following_seeds(seed: int, count: int) -> Tensor:
    """(count,) the seed and those that follow it.

    Raises:
        ConfigError: if they do not fit into 64 bits.
    """
    if not -_SEEDS <= seed <= _SEEDS - count:
        raise ConfigError(
            f"the seed is {seed}; expected a whole number from {-_SEEDS} to {_SEEDS - count}, so that those of "
            f"{count} samples fit into 64 bits"
        )
    return torch.arange(seed, seed + count)


def generate(
    bundle: Bundle,
    values: Sequence[GivenValue],
    plan: GenerationPlan,
    seeds: Tensor,
    *,
    expected: bool = False,
    bf16: bool = False,
    batch_size: int = 32,
    watch: Callable[[str, Any], None] | None = None,
    entropies: Answers | None = None,
) -> Answers:
    """Follow a plan and decode every target, `batch_size` samples at a time.

    Args:
        bundle: model and tokenizers.
        values: what is given, with as many rows as there are seeds, or one for all.
        plan: full names.
        seeds: (B,).
        expected: see `any_to_any`.
        bf16: compute in bfloat16.
        batch_size: samples computed together.
        watch: called with each target and its values when a batch of it is done; what it raises ends the generation.
        entropies: filled with grid target -> (B, h, w) entropy of each token when it was chosen, in nats.

    Returns:
        target -> value in natural units, as in `any_to_any`.
    """
    homes = {step.target: home(bundle, step.model) for step in plan.steps}
    modalities = {target: own.model.modalities[target] for target, own in homes.items()}
    grids = {target for target, modality in modalities.items() if modality.is_grid}
    one_step = {step.target for step in plan.steps if step.num_steps == 1}
    believed = grids if entropies is not None else grids & one_step if expected else set()
    steps = [replace(s, keep_probabilities=s.keep_probabilities or s.target in believed) for s in plan.steps]
    legs = replace(plan, steps=steps).legs()
    parts: dict[str, list[Any]] = {target: [] for target in plan.targets}
    for start in range(0, len(seeds), batch_size):
        chunk = seeds[start : start + batch_size]
        there = {value.key: (_rows(value.facts, start, len(chunk)), bundle) for value in values}
        for leg in legs:
            own = home(bundle, leg.model)
            decode = partial(_decode, own, parts, chunk, one_step if expected else (), watch)
            generated = _follow(leg, own, there, chunk, decode, bf16=bf16)
            if entropies is not None:
                for target in grids.intersection(leg.targets):
                    grid = modalities[target].grid
                    unsure = entropy(generated.probabilities[target]).unflatten(1, (grid.height, grid.width)).cpu()
                    entropies[target] = torch.cat([entropies[target], unsure]) if start else unsure
            if plan.chained and leg is not legs[-1]:
                special = _special(own)
                there |= {
                    target: (as_given(ids, modalities[target], special), own) for target, ids in generated.ids.items()
                }
    return {target: _join(part) for target, part in parts.items()}


def _follow(
    leg: GenerationPlan,
    own: Bundle,
    there: Mapping[str, tuple[Facts, Bundle]],
    seeds: Tensor,
    watch: Callable[[str, Generated], None],
    *,
    bf16: bool,
) -> Generated:
    """The steps of one model, which is given all that there is and that it reads."""
    plan = replace(leg, steps=[replace(step, model=None) for step in leg.steps])
    sampler = Sampler(own.model, _special(own), bf16=bf16)
    return sampler.run(plan, readable(there, own, leg.steps), seeds=seeds, watch=watch)


def _special(bundle: Bundle) -> SpecialIds:
    special: SpecialIds = bundle.text.special if bundle.text else SpecialIds()
    return special


def _decode(
    bundle: Bundle,
    parts: Mapping[str, list[Any]],
    seeds: Tensor,
    expected: Container[str],
    watch: Callable[[str, Any], None] | None,
    target: str,
    generated: Generated,
) -> None:
    """Add the values of one target and batch, and tell them."""
    values = outputs.decode(bundle, target, generated, seeds, expected=target in expected)
    parts[target].append(values)
    if watch is not None:
        watch(target, values)


def _rows(facts: Mapping[str, Tensor], start: int, count: int) -> dict[str, Tensor]:
    return {
        key: tensor.expand(count, *tensor.shape[1:]) if tensor.shape[0] == 1 else tensor[start : start + count]
        for key, tensor in facts.items()
    }


def _join(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return torch.cat(list(parts))
