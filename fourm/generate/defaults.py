"""Steps that suit a target and what is there to see, for where no plan is given. After the demo settings of 4M.

Those settings were chosen for the published models, whose maps have 14 x 14 tokens or more; models with smaller maps
draw less hot, in fewer steps, and only texts guide them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fourm.generate.names import base_name, short_name
from fourm.generate.plan import GenerationPlan, Step
from fourm.modality import Modality, ModalitySet

_NUM_STEPS = 8
_PUBLISHED_TOKENS = 196
_PUBLISHED: dict[str, dict[str, Any]] = {
    "clip": {"num_steps": 50, "temperature": 5.0, "temperature_schedule": "onex:0.5:0.5", "guidance": 3.0},
    "rgb": {"num_steps": 25, "temperature": 3.0, "guidance": 2.0},
}
"""What no image settles: maps that lay a picture out, and the picture."""
_NUM_TOKENS = {"sam_instance": 256}
_ORDER = (
    "clip", "dinov2", "dinov2_global", "imagebind", "imagebind_global", "depth", "normal", "semseg", "canny_edge",
    "sam_edge", "", "rgb", "caption", "det", "human_poses", "sam_instance", "color_palette", "metadata",
)  # fmt: skip
"""Features first, then maps, the picture, and texts, as in 4M's demo; the empty name stands for all other grids."""


def all_targets(given: Iterable[str], modalities: ModalitySet) -> list[Modality]:
    """All that a model can generate and that does not show what is given, in an order that suits a chain.

    Args:
        given: names of what is given.
        modalities: those of the model.
    """
    shown = {short_name(modalities[base_name(name)]) for name in given}
    targets = [m for m in modalities.outputs if short_name(m) not in shown]
    return sorted(targets, key=_place_in_chain)


def _place_in_chain(modality: Modality) -> int:
    name = short_name(modality)
    other = _ORDER.index("") if modality.is_grid else len(_ORDER)
    return _ORDER.index(name) if name in _ORDER else other


def default_plan(
    targets: Sequence[Modality],
    given: Iterable[str],
    modalities: ModalitySet,
    raw: Callable[[Modality], Modality],
    *,
    chained: bool = True,
    sees: Mapping[str, Sequence[str]] | None = None,
    makers: Mapping[str, str | None] | None = None,
    others: Mapping[str, ModalitySet] | None = None,
) -> GenerationPlan:
    """A plan for any pair of given modalities and targets.

    Args:
        targets: in the order to generate.
        given: names of what is given.
        modalities: those of the model.
        raw: what a modality shows.
        chained: whether each target is given to the next.
        sees: target -> full names of all that it is made from. Those of them that are generated guide it too.
        makers: target -> further model that makes it, or None.
        others: modalities of the further models.
    """
    seen = {base_name(name) for name in given}
    sees, makers = sees or {}, makers or {}
    guiding = {name for names in sees.values() for name in names}
    steps = []
    for target in targets:
        model = makers.get(target.name)
        own = modalities if model is None else (others or {})[model]
        here = {name for name in seen if name in own and own[name].is_input}
        if target.name in sees:
            here &= set(sees[target.name])
        step = _default_step(target, here, own, raw)
        if target.name in sees:
            step = replace(step, sees=list(sees[target.name]))
        if target.name in guiding:
            step = replace(step, grow_conditioning=True)
        steps.append(replace(step, model=model))
        if chained and (target.is_input or others):
            seen.add(target.name)
    return GenerationPlan(steps, chained=chained)


def _default_step(
    target: Modality, seen: set[str], modalities: ModalitySet, raw: Callable[[Modality], Modality]
) -> Step:
    name, published = short_name(target), target.num_tokens >= _PUBLISHED_TOKENS
    if not target.is_grid:
        longest = _NUM_TOKENS.get(name)
        return Step(
            target.name,
            "autoregressive",
            temperature=0.3,
            num_tokens=longest if longest and longest < target.num_tokens else None,
        )
    if not target.is_input:
        return Step(target.name, "roar", temperature=0.01)
    num_steps = min(_NUM_STEPS, target.num_tokens)
    if target.name in seen:  # part of it is given: the rest should go with it, in detail
        return Step(target.name, "roar", num_steps, temperature=1.0, top_p=0.9)
    if name.endswith("_global"):  # one vector, for retrieval
        return Step(target.name, "roar", temperature=0.1)
    grids = [modalities[known] for known in seen if modalities[known].is_grid]
    if any(short_name(grid) == name and grid.num_tokens < target.num_tokens for grid in grids):  # super-resolution
        return Step(
            target.name, "maskgit", _NUM_STEPS, temperature=1.0, top_p=0.9, guidance=3.0, grow_conditioning=True
        )
    if published and name in _PUBLISHED and not any(_is_picture(raw(grid)) for grid in grids):
        own = _PUBLISHED[name] if seen else {**_PUBLISHED[name], "guidance": 1.0}
        return Step(target.name, "roar", schedule="linear", top_p=0.8, grow_conditioning=True, **own)
    if grids and not _is_picture(raw(target)):
        # An image fixes its depth, normals, labels or edges: one step is best.
        return Step(target.name, "roar", temperature=0.01, guidance=2.0 if published else 1.0)
    if grids:
        return Step(target.name, "roar", num_steps, temperature=1.0, top_p=0.8, guidance=2.0)
    return Step(target.name, "roar", num_steps, temperature=1.0, top_p=0.9, guidance=3.0 if seen else 1.0)


def _is_picture(raw: Modality) -> bool:
    """Feature maps are made of the files of images, but show none."""
    return raw.decode == "image" and raw.teacher is None
