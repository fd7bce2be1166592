"""Any modalities from any others: from values in natural units, along a plan, to values in natural units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
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
from fourm.generate.ensemble import combine, entropy, spread_tokens
from fourm.generate.inputs import GivenValue, find_given
from fourm.generate.names import resolve, short_name
from fourm.generate.natural import check_gaps, held, take
from fourm.generate.plan import GenerationPlan
from fourm.generate.results import Results
from fourm.generate.sampler import Generated, Sampler
from fourm.rng import torch_seed
from fourm.tokens import SpecialIds

Answers = dict[str, Any]
Progress = Callable[[int, int, str], None]


def any_to_any(
    bundle: Bundle,
    given: Mapping[str, Any],
    to: Sequence[str] | str,
    *,
    known: Mapping[str, Any] | None = None,
    plan: GenerationPlan | str | Path | None = None,
    seed: int = 0,
    seeds: Tensor | None = None,
    num_samples: int = 1,
    ensemble: bool = False,
    expected: bool = False,
    bf16: bool = False,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Results:
    """Generate any modalities from any others.

    Args:
        bundle: model and tokenizers, where they are (`fourm.recipe.load_bundle`).
        given: name, such as `rgb` or `caption`, -> a path, a PIL image, an array, a text, or a value in natural units
            with one row per sample; see `fourm.generate.natural.take`. Values of one sample serve all.
        to: what to generate, in this order, each name as `depth` or `tok_depth@64`; `all`: all the model can.
        known: name -> which part of a given value counts: a mask of an image, or `some` for texts and boxes.
        plan: how; None: what suits the pair.
        seed: of all samples.
        seeds: (B,) one of each sample instead.
        num_samples: answers for each given sample; they lie side by side.
        ensemble: make one answer of them, and measure how far they differ; see `follow`.
        expected: decode one-step predictions as the mean of the codes under their probabilities.
        bf16: compute in bfloat16.
        batch_size: samples computed together; it does not change the answers.
        progress: called with the numbers of parts done and of all parts, and with the target that was just done.

    Returns:
        name as in `to` -> values in natural units, as `fourm.generate.outputs.decode` gives them.

    Raises:
        ConfigError: for names or plans the model does not know, or a target that is given whole.
        DataError: for values that do not fit.
        CheckpointError: if the model computes no numbers.
    """
    names = [name.strip() for name in to.split(",")] if isinstance(to, str) else list(to)
    known = dict(known or {})
    steps, targets, kept = plan_for(bundle, names, given, known, plan)
    values = read_all(bundle, given, known, kept, take)
    count = common_size(values)
    if seeds is None:
        seeds = sample_seeds(seed, count * num_samples)
    elif len(seeds) != count * num_samples:
        raise DataError(f"{len(seeds)} seeds for {count * num_samples} samples; give one of each")
    options = {"expected": expected, "bf16": bf16, "batch_size": batch_size}
    watch = counted(progress, len(steps.steps) * -(-len(seeds) // batch_size)) if progress else None
    return follow(bundle, values, steps, targets, seeds, num_samples, ensemble=ensemble, watch=watch, **options)


def plan_for(
    bundle: Bundle,
    names: Sequence[str],
    given: Iterable[str],
    known: Iterable[str],
    plan: GenerationPlan | str | Path | None,
) -> tuple[GenerationPlan, dict[str, str], dict[str, str]]:
    """As `make_plan`, and targets whose known part is given beside the pixels that show it (`natural.held`).

    Raises:
        ConfigError: if the model cannot read or generate something, or what is not given is said to be known.
    """
    given, known = list(given), list(known)
    stray = [name for name in known if name not in given]
    if stray:
        raise ConfigError(
            f"known {stray[0]}: this says which part of the given {stray[0]} counts, but none is given; given are: "
            f"{', '.join(given) or 'none'}"
        )
    steps, targets = make_plan(bundle, names, given, plan)
    kept = held(bundle, [name for name in known if find_given(bundle, name)[1] not in steps.targets], steps.targets)
    kept = {target: name for target, name in kept.items() if target not in given}
    if kept:
        steps, targets = make_plan(bundle, names, [*given, *kept], plan)
    return steps, targets, kept


def read_all(
    bundle: Bundle,
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    kept: Mapping[str, str],
    read: Callable[[Bundle, str, Any, Any], GivenValue],
) -> list[GivenValue]:
    """All that is given.

    Args:
        bundle: model and tokenizers.
        given: name -> value.
        known: name -> its part that counts.
        kept: from `plan_for`.
        read: `natural.take` or `natural.take_text`.
    """
    values = [read(bundle, name, value, known.get(name)) for name, value in given.items()]
    return values + [read(bundle, target, given[name], known[name]) for target, name in kept.items()]


def follow(
    bundle: Bundle,
    values: Sequence[GivenValue],
    plan: GenerationPlan,
    targets: Mapping[str, str],
    seeds: Tensor,
    num_samples: int = 1,
    *,
    ensemble: bool = False,
    watch: Callable[[str, Any], None] | None = None,
    **options: Any,
) -> Results:
    """Follow a plan for every given sample.

    Args:
        bundle: model and tokenizers.
        values: what is given, each with B samples or one.
        plan: full names.
        targets: written name -> target.
        seeds: (B * num_samples,).
        num_samples: answers for each given sample.
        ensemble: of all answers for a given sample make one, with a map of how far they differ; of a single one, keep
            the entropy of each of its tokens when it was chosen, in nats.
        watch: see `generate`.
        options: see `generate`.

    Raises:
        ConfigError: if a target is given whole.
    """
    check_gaps(values, plan.targets, bundle)
    # Repeated for each answer; what has one sample serves all as it is.
    rows = [repeat(value, num_samples) if value.num_samples > 1 else value for value in values]
    entropies: Answers | None = {} if ensemble and num_samples == 1 else None
    answers = generate(bundle, rows, plan, seeds, watch=watch, entropies=entropies, **options)
    named = {name: answers[target] for name, target in targets.items()}
    uncertainty: dict[str, Tensor] = {}
    if entropies is not None:
        for name, target in targets.items():
            if target in entropies:
                pairs = zip(entropies[target], named[name], strict=True)
                uncertainty[name] = torch.stack([spread_tokens(tokens, value) for tokens, value in pairs])
    elif ensemble:
        rows = list(values)
        for name, target in targets.items():
            named[name], unsure = _ensembles(bundle, target, named[name], num_samples)
            if unsure is not None:
                uncertainty[name] = unsure
    return Results(named, bundle=bundle, given=rows, targets=targets, plan=plan, uncertainty=uncertainty)


def _ensembles(bundle: Bundle, target: str, values: Any, num_samples: int) -> tuple[Any, Tensor | None]:
    """(B * N, ...) answers as (B, ...) ensembles and their uncertainty."""
    raw = raw_modality(bundle, bundle.model.modalities[target])
    groups = [combine(values[i : i + num_samples], raw) for i in range(0, len(values), num_samples)]
    unsure = [group.uncertainty for group in groups if group.uncertainty is not None]
    if not unsure:
        return [group.value for group in groups], None
    return torch.stack([group.value for group in groups]), torch.stack(unsure)


def counted(progress: Progress, total: int) -> Callable[[str, Any], None]:
    """A `watch` for `generate` that counts."""
    numbers = iter(range(1, total + 1))
    return lambda target, _: progress(next(numbers), total, target)


def make_plan(
    bundle: Bundle, names: Sequence[str], given: Sequence[str] | None, plan: GenerationPlan | str | Path | None
) -> tuple[GenerationPlan, dict[str, str]]:
    """The plan in full names, checked, and written name -> target.

    Args:
        bundle: the model.
        names: what to return of it; empty: all.
        given: names of what is given; None: not known yet, and not looked at.
        plan: None: what suits the pair.

    Raises:
        ConfigError: if the model cannot read or generate something, or the plan does not generate it.
    """
    modalities = bundle.model.modalities
    keys = [find_given(bundle, name)[1] for name in given or ()]
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
    if given is not None:
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
    modalities = bundle.model.modalities
    grids = {step.target for step in plan.steps if modalities[step.target].is_grid}
    one_step = {step.target for step in plan.steps if step.num_steps == 1}
    believed = grids if entropies is not None else grids & one_step if expected else set()
    steps = [replace(s, keep_probabilities=s.keep_probabilities or s.target in believed) for s in plan.steps]
    plan = replace(plan, steps=steps)
    sampler = Sampler(bundle.model, bundle.text.special if bundle.text else SpecialIds(), bf16=bf16)
    parts: dict[str, list[Any]] = {target: [] for target in plan.targets}
    for start in range(0, len(seeds), batch_size):
        chunk = seeds[start : start + batch_size]
        given = {value.key: _rows(value.facts, start, len(chunk)) for value in values}
        decode = partial(_decode, bundle, parts, chunk, one_step if expected else (), watch)
        generated = sampler.run(plan, given, seeds=chunk, watch=decode)
        if entropies is not None:
            for target in grids:
                grid = modalities[target].grid
                own = entropy(generated.probabilities[target]).unflatten(1, (grid.height, grid.width)).cpu()
                entropies[target] = torch.cat([entropies[target], own]) if start else own
    return {target: _join(part) for target, part in parts.items()}


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


def common_size(values: Sequence[GivenValue]) -> int:
    """Samples of what is given.

    Raises:
        DataError: if the values do not agree.
    """
    sizes = {value.name: value.num_samples for value in values}
    count = max(sizes.values(), default=1)
    wrong = [name for name, size in sizes.items() if size not in (1, count)]
    if wrong:
        raise DataError(f"given '{wrong[0]}' has {sizes[wrong[0]]} samples, others have {count}; expected 1 or {count}")
    return count


def repeat(value: GivenValue, num_samples: int) -> GivenValue:
    """Every sample so many times, side by side."""
    facts = {key: tensor.repeat_interleave(num_samples, 0) for key, tensor in value.facts.items()}
    return replace(value, facts=facts, pictures=[one for one in value.pictures for _ in range(num_samples)])
