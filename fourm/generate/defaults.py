"""Steps that suit a target and what is there to see, for where no plan is given. After the demo settings of 4M."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fourm.generate.names import base_name
from fourm.generate.plan import GenerationPlan, Step
from fourm.modality import Modality, ModalitySet

_NUM_STEPS = 8


def default_plan(
    targets: Sequence[Modality],
    given: Iterable[str],
    modalities: ModalitySet,
    raw: Callable[[Modality], Modality],
    *,
    chained: bool = True,
) -> GenerationPlan:
    """A plan for any pair of given modalities and targets.

    Args:
        targets: in the order to generate.
        given: names of what is given.
        modalities: those of the model.
        raw: what a modality shows.
        chained: whether each target is given to the next.
    """
    seen = {base_name(name) for name in given}
    steps = []
    for target in targets:
        steps.append(_default_step(target, seen, modalities, raw))
        if chained and target.is_input:
            seen.add(target.name)
    return GenerationPlan(steps, chained=chained)


def _default_step(
    target: Modality, seen: set[str], modalities: ModalitySet, raw: Callable[[Modality], Modality]
) -> Step:
    if not target.is_grid:
        return Step(target.name, "autoregressive", temperature=0.3)
    if not target.is_input:
        return Step(target.name, "roar", temperature=0.01)
    num_steps = min(_NUM_STEPS, target.num_tokens)
    if target.name in seen:  # part of it is given: the rest should go with it, in detail
        return Step(target.name, "roar", num_steps, temperature=1.0, top_p=0.9)
    if any(modalities[name].is_grid for name in seen):
        if raw(target).decode != "image":
            # An image fixes its depth, normals, labels or edges: one step is best.
            return Step(target.name, "roar", temperature=0.01)
        return Step(target.name, "roar", num_steps, temperature=1.0, top_p=0.8, guidance=2.0)
    return Step(target.name, "roar", num_steps, temperature=1.0, top_p=0.9, guidance=3.0 if seen else 1.0)
