"""Which steps lead from what is given to what is asked: those of a plan, or those that suit the pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fourm import recipes
from fourm.errors import ConfigError
from fourm.generate.bundle import Bundle, home, raw_modality
from fourm.generate.defaults import all_targets, default_plan
from fourm.generate.inputs import find_given
from fourm.generate.names import resolve, short_name
from fourm.generate.natural import held
from fourm.generate.plan import GenerationPlan
from fourm.modality import Modality, ModalitySet

Sees = Mapping[str, Sequence[str]]
"""Target, as written -> names of all that it is made from."""


def plan_for(
    bundle: Bundle,
    names: Sequence[str],
    given: Iterable[str],
    known: Iterable[str],
    plan: GenerationPlan | str | Path | None,
    sees: Sees | None = None,
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
    steps, targets = make_plan(bundle, names, given, plan, sees)
    kept = held(bundle, [name for name in known if find_given(bundle, name)[1] not in steps.targets], steps.targets)
    kept = {target: name for target, name in kept.items() if target not in given}
    if kept:
        steps, targets = make_plan(bundle, names, [*given, *kept], plan, sees)
    return steps, targets, kept


def make_plan(
    bundle: Bundle,
    names: Sequence[str],
    given: Sequence[str] | None,
    plan: GenerationPlan | str | Path | None,
    sees: Sees | None = None,
) -> tuple[GenerationPlan, dict[str, str]]:
    """The plan in full names, checked, and written name -> target.

    Args:
        bundle: the model, and further ones: what it cannot generate, the first of them does that can.
        names: what to return of it; empty: all.
        given: names of what is given; None: not known yet, and not looked at.
        plan: None: what suits the pair.
        sees: what some targets are made from, instead of what the plan says.

    Raises:
        ConfigError: if the model cannot read or generate something, or the plan does not generate it.
    """
    modalities = bundle.model.modalities
    others = {name: other.model.modalities for name, other in bundle.others.items()}
    keys = [find_given(bundle, name)[1] for name in given or ()]
    if list(names) == ["all"] and plan is None:
        short = Counter(short_name(m) for m in modalities.outputs)
        names = [short_name(m) if short[short_name(m)] == 1 else m.name for m in all_targets(keys, modalities)]
    names = [] if list(names) == ["all"] else [name for name in names if name]  # all that the plan generates
    if plan is None:
        if not names:
            raise ConfigError("there is nothing to generate: name at least one target")
        found = {name: _find_target(bundle, name) for name in names}
        chosen = {name: modality.name for name, (_, modality) in found.items()}
        makers = {modality.name: model for model, modality in found.values()}
        steps = default_plan(
            [modality for _, modality in found.values()], keys, modalities, lambda m: _raw(bundle, m),
            sees=_full_names(bundle, sees or {}, chosen, makers), makers=makers, others=others,
        )  # fmt: skip
    else:
        loaded = plan if isinstance(plan, GenerationPlan) else recipes.load(plan, GenerationPlan, folder="generate")
        steps = loaded.resolve(modalities, others)
        if bundle.text is not None:
            steps = steps.spell_out(bundle.text.encode)
        chosen = {name: _of_plan(bundle, steps, name) for name in names}
        if not chosen:  # all, by the names that the plan itself uses
            chosen = dict(zip(loaded.targets, steps.targets, strict=True))
        if sees:
            own = dict(zip(loaded.targets, steps.targets, strict=True))
            makers = {step.target: step.model for step in steps.steps}
            wanted = _full_names(bundle, sees, {**own, **chosen}, makers)
            steps = replace(steps, steps=[replace(s, sees=wanted.get(s.target, s.sees)) for s in steps.steps])
    used = dict.fromkeys(step.model for step in steps.steps if step.model is not None)
    steps = replace(steps, models={name: bundle.others[name].place for name in used})
    if given is not None:
        steps.check(modalities, keys, others)
    return steps, chosen


def _find_target(bundle: Bundle, name: str) -> tuple[str | None, Modality]:
    """The modality someone wants generated, and the further model that does it if the first cannot."""
    try:
        return None, resolve(name, bundle.model.modalities.outputs, "generate")
    except ConfigError:
        for model, other in bundle.others.items():
            with suppress(ConfigError):
                return model, resolve(name, other.model.modalities.outputs, "generate")
        raise


def _of_plan(bundle: Bundle, steps: GenerationPlan, name: str) -> str:
    """The target of a plan that someone means."""
    made = {(step.model, step.target) for step in steps.steps}
    for model in (None, *bundle.others):
        with suppress(ConfigError):
            found = resolve(name, home(bundle, model).model.modalities.outputs, "generate").name
            if (model, found) in made:
                return found
    _find_target(bundle, name)
    raise ConfigError(f"the plan does not generate '{name}'; it generates: {', '.join(steps.targets)}")


def _full_names(
    bundle: Bundle, sees: Sees, targets: Mapping[str, str], makers: Mapping[str, str | None]
) -> dict[str, list[str]]:
    """What targets are made from, in full names."""
    full = {}
    for written, names in sees.items():
        target = targets.get(written, written)
        if target not in makers:
            raise ConfigError(
                f"sees {written}: this says what {written} is made from, but it is not generated; generated are: "
                f"{', '.join(targets)}"
            )
        inputs: ModalitySet = home(bundle, makers[target]).model.modalities
        full[target] = [resolve(name, inputs.inputs, "read").name for name in names]
    return full


def _raw(bundle: Bundle, modality: Modality) -> Modality:
    """What a modality of any of the models shows."""
    homes = (own for own in (bundle, *bundle.others.values()) if modality.name in own.tokenizers)
    return raw_modality(next(homes, bundle), modality)
