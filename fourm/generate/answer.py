"""Any modalities from any others: from values in natural units, along a plan, to values in natural units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate.bundle import Bundle, home, raw_modality
from fourm.generate.chain import Answers, generate, sample_seeds
from fourm.generate.ensemble import combine, spread_tokens
from fourm.generate.inputs import GivenValue
from fourm.generate.natural import check_gaps, take
from fourm.generate.plan import GenerationPlan
from fourm.generate.planning import plan_for
from fourm.generate.results import Results
from fourm.modality import Modality

Progress = Callable[[int, int, str], None]


def any_to_any(
    bundle: Bundle,
    given: Mapping[str, Any],
    to: Sequence[str] | str,
    *,
    known: Mapping[str, Any] | None = None,
    plan: GenerationPlan | str | Path | None = None,
    sees: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    seeds: Tensor | Sequence[int] | None = None,
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
        sees: target -> names of all that it is made from; other targets see everything there is.
        seed: of all samples.
        seeds: (B,) one of each sample instead.
        num_samples: answers for each given sample; they lie side by side.
        ensemble: make one answer of them, and measure how far they differ; see `follow`.
        expected: decode one-step predictions as the mean of the codes under their probabilities.
        bf16: compute in bfloat16.
        batch_size: samples computed together; in float32 it does not change the answers, with `bf16` it may.
        progress: called with the numbers of parts done and of all parts, and with the target that was just done.

    Returns:
        name as in `to` -> values in natural units, as `fourm.generate.outputs.decode` gives them.

    Raises:
        ConfigError: for names or plans the model does not know, or a target that is given whole.
        DataError: for values that do not fit.
        CheckpointError: if the model computes no numbers.
    """
    check_counts(num_samples, batch_size)
    names = [name.strip() for name in to.split(",")] if isinstance(to, str) else list(to)
    known = dict(known or {})
    steps, targets, kept = plan_for(bundle, names, given, known, plan, sees)
    values = read_all(bundle, given, known, kept, take)
    count = common_size(values)
    if seeds is None:
        seeds = sample_seeds(seed, count * num_samples)
    else:
        seeds = _as_seeds(seeds, count * num_samples)
    options = {"expected": expected, "bf16": bf16, "batch_size": batch_size}
    watch = counted(progress, len(steps.steps) * -(-len(seeds) // batch_size)) if progress else None
    return follow(bundle, values, steps, targets, seeds, num_samples, ensemble=ensemble, watch=watch, **options)


def check_counts(num_samples: int, batch_size: int) -> None:
    """See that there is something to make, and something at once.

    Raises:
        ConfigError: if one of them is less than 1.
    """
    for what, number in (("num_samples", num_samples), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
            raise ConfigError(f"{what} is {number!r}; expected a whole number of at least 1")


def _as_seeds(seeds: Tensor | Sequence[int], count: int) -> Tensor:
    try:
        numbers = torch.as_tensor(seeds)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"seeds: {error}; expected whole numbers below 2 ** 63, one of each sample") from None
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise DataError(
            f"seeds of shape {tuple(numbers.shape)} and type {numbers.dtype}; expected a row of whole numbers, one of "
            "each sample"
        )
    if len(numbers) != count:
        raise DataError(f"{len(numbers)} seeds for {count} samples; give one of each")
    return numbers.long()


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
    check_gaps(values, plan.steps, bundle)
    # Repeated for each answer; what has one sample serves all as it is.
    rows = [repeat(value, num_samples) if value.num_samples > 1 else value for value in values]
    entropies: Answers | None = {} if ensemble and num_samples == 1 else None
    answers = generate(bundle, rows, plan, seeds, watch=watch, entropies=entropies, **options)
    named = {name: answers[target] for name, target in targets.items()}
    shown = shown_by(bundle, plan, targets)
    uncertainty: dict[str, Tensor] = {}
    if entropies is not None:
        for name, target in targets.items():
            if target in entropies:
                pairs = zip(entropies[target], named[name], strict=True)
                uncertainty[name] = torch.stack([spread_tokens(tokens, value) for tokens, value in pairs])
    elif ensemble:
        rows = list(values)
        for name in targets:
            named[name], unsure = _ensembles(shown[name], named[name], num_samples)
            if unsure is not None:
                uncertainty[name] = unsure
    return Results(named, shown=shown, given=rows, plan=plan, uncertainty=uncertainty)


def shown_by(bundle: Bundle, plan: GenerationPlan, targets: Mapping[str, str]) -> dict[str, Modality]:
    """Written name -> what the answers of its target show."""
    homes = {step.target: home(bundle, step.model) for step in plan.steps}
    own = {name: (homes[target], homes[target].model.modalities[target]) for name, target in targets.items()}
    return {name: raw_modality(*found) for name, found in own.items()}


def _ensembles(raw: Modality, values: Any, num_samples: int) -> tuple[Any, Tensor | None]:
    """(B * N, ...) answers as (B, ...) ensembles and their uncertainty."""
    groups = [combine(values[i : i + num_samples], raw) for i in range(0, len(values), num_samples)]
    unsure = [group.uncertainty for group in groups if group.uncertainty is not None]
    if not unsure:
        return [group.value for group in groups], None
    return torch.stack([group.value for group in groups]), torch.stack(unsure)


def counted(progress: Progress, total: int) -> Callable[[str, Any], None]:
    """A `watch` for `generate` that counts."""
    numbers = iter(range(1, total + 1))
    return lambda target, _: progress(next(numbers), total, target)


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
