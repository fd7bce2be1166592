"""Any modalities from any others: from values in natural units, along a plan, to values in natural units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm import config as configs
from fourm.errors import ConfigError, DataError
from fourm.generate import outputs
from fourm.generate.bundle import Bundle, raw_modality
from fourm.generate.defaults import all_targets, default_plan
from fourm.generate.inputs import GivenValue, find_given, give
from fourm.generate.names import resolve, short_name
from fourm.generate.plan import GenerationPlan
from fourm.generate.sampler import Sampler
from fourm.rng import torch_seed
from fourm.tokens import SpecialIds

Answers = dict[str, Any]


def any_to_any(
    bundle: Bundle,
    given: Mapping[str, Any],
    to: Sequence[str] | str,
    *,
    plan: GenerationPlan | str | Path | None = None,
    seed: int = 0,
    seeds: Tensor | None = None,
    num_samples: int = 1,
    expected: bool = False,
    bf16: bool = False,
    batch_size: int = 32,
) -> Answers:
    """Generate any modalities from any others.

    Args:
        bundle: model and tokenizers, where they are (`fourm.recipe.load_bundle`).
        given: name, such as `rgb` or `caption`, -> value in natural units, with one row per sample; see
            `fourm.generate.inputs.give`. Values of one sample serve all.
        to: what to generate, in this order, each name as `depth` or `tok_depth@64`; `all`: all the model can.
        plan: how; None: what suits the pair.
        seed: of all samples.
        seeds: (B,) one of each sample instead.
        num_samples: answers for each given sample; they lie side by side.
        expected: decode one-step predictions as the mean of the codes under their probabilities.
        bf16: compute in bfloat16.
        batch_size: samples computed together; it does not change the answers.

    Returns:
        name as in `to` -> values in natural units, as `fourm.generate.outputs.decode` gives them.

    Raises:
        ConfigError: for names or plans the model does not know.
        DataError: for values that do not fit.
    """
    names = [name.strip() for name in to.split(",")] if isinstance(to, str) else list(to)
    steps, targets = make_plan(bundle, names, list(given), plan)
    values = [give(bundle, name, value) for name, value in given.items()]
    count = _common_size(values)
    values = [_repeat(value, count, num_samples) for value in values]
    if seeds is None:
        seeds = sample_seeds(seed, count * num_samples)
    elif len(seeds) != count * num_samples:
        raise DataError(f"{len(seeds)} seeds for {count * num_samples} samples; give one of each")
    answers = generate(bundle, values, steps, seeds, expected=expected, bf16=bf16, batch_size=batch_size)
    return {name: answers[target] for name, target in targets.items()}


def make_plan(
    bundle: Bundle, names: Sequence[str], given: Sequence[str], plan: GenerationPlan | str | Path | None
) -> tuple[GenerationPlan, dict[str, str]]:
    """The plan in full names, checked, and written name -> target.

    Raises:
        ConfigError: if the model cannot read or generate something, or the plan does not generate it.
    """
    modalities = bundle.model.modalities
    keys = [find_given(bundle, name)[1] for name in given]
    if list(names) == ["all"] and plan is None:
        short = Counter(short_name(m) for m in modalities.outputs)
        names = [short_name(m) if short[short_name(m)] == 1 else m.name for m in all_targets(keys, modalities)]
    chosen = {name: resolve(name, modalities.outputs, "generate") for name in names if name}
    if plan is None:
        if not chosen:
            raise ConfigError("there is nothing to generate: name at least one target")
        steps = default_plan(list(chosen.values()), keys, modalities, partial(raw_modality, bundle))
    else:
        loaded = plan if isinstance(plan, GenerationPlan) else configs.load(plan, GenerationPlan, folder="generate")
        steps = loaded.resolve(modalities)
        if bundle.text is not None:
            steps = steps.spell_out(bundle.text.encode)
        missing = [name for name, m in chosen.items() if m.name not in steps.targets]
        if missing:
            raise ConfigError(f"the plan does not generate '{missing[0]}'; it generates: {', '.join(steps.targets)}")
        if not chosen:  # all, by the names that the plan itself uses
            chosen = {own: modalities[full] for own, full in zip(loaded.targets, steps.targets, strict=True)}
    steps.check(modalities, keys)
    return steps, {name: m.name for name, m in chosen.items()}


def sample_seeds(seed: int, count: int) -> Tensor:
    """(count,) seeds; the first ones are the same for any count."""
    return torch.tensor([torch_seed(seed, "sample", number) for number in range(count)], dtype=torch.int64)


def generate(
    bundle: Bundle,
    values: Sequence[GivenValue],
    plan: GenerationPlan,
    seeds: Tensor,
    *,
    expected: bool = False,
    bf16: bool = False,
    batch_size: int = 32,
    watch: Callable[[str], None] | None = None,
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
        watch: called with each target when a batch of it is done.

    Returns:
        target -> value in natural units, as in `any_to_any`.
    """
    if expected:
        one_step = [
            replace(s, keep_probabilities=s.num_steps == 1 and bundle.model.modalities[s.target].is_grid)
            for s in plan.steps
        ]
        plan = replace(plan, steps=one_step)
    sampler = Sampler(bundle.model, bundle.text.special if bundle.text else SpecialIds(), bf16=bf16)
    parts: dict[str, list[Any]] = {target: [] for target in plan.targets}
    for start in range(0, len(seeds), batch_size):
        chunk = seeds[start : start + batch_size]
        given = {value.key: _rows(value.facts, start, len(chunk)) for value in values}
        generated = sampler.run(plan, given, seeds=chunk, watch=watch)
        for target, part in parts.items():
            part.append(outputs.decode(bundle, target, generated, chunk, expected=expected))
    return {target: _join(part) for target, part in parts.items()}


def _rows(facts: Mapping[str, Tensor], start: int, count: int) -> dict[str, Tensor]:
    return {
        key: tensor.expand(count, *tensor.shape[1:]) if tensor.shape[0] == 1 else tensor[start : start + count]
        for key, tensor in facts.items()
    }


def _join(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return torch.cat(list(parts))


def _common_size(values: Sequence[GivenValue]) -> int:
    sizes = {value.name: value.num_samples for value in values}
    count = max(sizes.values(), default=1)
    wrong = [name for name, size in sizes.items() if size not in (1, count)]
    if wrong:
        raise DataError(f"given '{wrong[0]}' has {sizes[wrong[0]]} samples, others have {count}; expected 1 or {count}")
    return count


def _repeat(value: GivenValue, count: int, num_samples: int) -> GivenValue:
    if value.num_samples == 1 and count > 1:
        return value
    facts = {key: tensor.repeat_interleave(num_samples, 0) for key, tensor in value.facts.items()}
    return replace(value, facts=facts)
