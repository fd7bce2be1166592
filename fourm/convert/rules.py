"""Named rules between a published state dict and ours, read in both directions, every tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fourm.errors import CheckpointError

_LISTED = 8
_CLOSE = 1e-3
"""Tables that are computed may differ by this much, or by the rounding of their type: they were computed elsewhere."""


@dataclass(frozen=True)
class Rule:
    """What a published tensor is here.

    Without `targets` and without `constant` it is a tensor that nothing reads.

    Args:
        key: its name.
        shape: its shape.
        targets: our tensors that it holds, one after another along the first axis.
        rows: rows of the only target that it fills; None: all of them.
        twins: other published names of the same values, of which a file may hold only one.
        constant: what it always is, so that it is computed here and not stored.
        checked: whether a published tensor has to be that constant.
        axes: order in which the axes of the published tensor follow one another here, where it is another.
        scale: what its numbers are multiplied by here.
    """

    key: str
    shape: tuple[int, ...]
    targets: tuple[str, ...] = ()
    rows: slice | None = None
    twins: tuple[str, ...] = ()
    constant: Tensor | None = None
    checked: bool = True
    axes: tuple[int, ...] | None = None
    scale: float = 1.0

    @property
    def is_unread(self) -> bool:
        return not self.targets and self.constant is None


@dataclass
class Imported:
    """A published state dict in our names.

    Args:
        state: our tensors, float32 where they were published in another precision.
        kept: published tensors that `state` does not give back bit by bit: unread ones, and constants computed
            elsewhere.
        absent: keys of the rules that the file left out, as twins of others.
        dtypes: published key -> its dtype, where that is not ours.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    dtypes: dict[str, str] = field(default_factory=dict)


def read(
    rules: Iterable[Rule],
    published: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    spare: Iterable[str] = (),
    keep: bool = False,
) -> Imported:
    """Our tensors from published ones. Only tensors that are joined or split are copied.

    Args:
        rules: of this network.
        published: the state dict; tensors are asked for one at a time.
        own: our state dict, on any device, for names, shapes and dtypes.
        spare: tensors of ours whose remaining rows nothing reads; they become zero.
        keep: also return what exporting it again needs.

    Raises:
        CheckpointError: naming all published keys without a rule, all missing ones, or a shape that does not fit.
    """
    rules, result, rest = list(rules), Imported(), set(spare)
    unknown = sorted(published.keys() - {rule.key for rule in rules})
    lacking = sorted(r.key for r in rules if not any(name in published for name in (r.key, *r.twins)))
    if unknown or lacking:
        raise CheckpointError(
            f"the weights do not fit the config: {_some(lacking, 'missing')}; {_some(unknown, 'without a place')}"
        )
    covered: dict[str, int] = {}
    for rule in rules:
        name = next(name for name in (rule.key, *rule.twins) if name in published)
        if name != rule.key:
            result.absent.append(rule.key)
        if rule.targets or rule.constant is not None or (keep and name == rule.key):
            value = _shaped(rule, name, published[name])
            if rule.axes is not None:
                value = value.reshape(rule.shape).permute(rule.axes).contiguous()
            value = value if rule.scale == 1 else value.float() * rule.scale
            parts = value.chunk(len(rule.targets)) if len(rule.targets) > 1 else (value,)
            for target, part in zip(rule.targets, parts):
                _place(result.state, covered, rule, target, part, own)
            if keep and name == rule.key:
                _keep(result, rule, value)
    for name in rest & own.keys():
        result.state.setdefault(name, torch.zeros(own[name].shape, dtype=own[name].dtype))
    gaps = [n for n in own if n not in rest and (n not in result.state or covered.get(n, 0) < own[n].shape[:1].numel())]
    if gaps:
        raise CheckpointError(f"the published weights do not fill ours: {_some(gaps, 'empty')}")
    return result


def write(
    rules: Iterable[Rule],
    state: Mapping[str, Tensor],
    *,
    kept: Mapping[str, Tensor] | None = None,
    absent: Iterable[str] = (),
    dtypes: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Published tensors from ours, each with storage of its own.

    Args:
        rules: of this network.
        state: ours.
        kept, absent, dtypes: see `Imported`. Unread tensors that were not kept become zero.
    """
    kept, left_out, result = kept or {}, set(absent), {}
    rules = list(rules)
    for rule in rules:
        if rule.key in kept:
            value = kept[rule.key]
        elif rule.constant is not None:
            value = rule.constant
        elif rule.targets:
            parts = [state[name].detach().cpu() for name in rule.targets]
            value = torch.cat(parts) if len(parts) > 1 else parts[0] if rule.rows is None else parts[0][rule.rows]
            value = value if rule.scale == 1 else value / rule.scale
        else:
            value = torch.zeros(rule.shape)
        if rule.axes is not None and rule.key not in kept:
            turned = [rule.shape[axis] for axis in rule.axes]
            value = value.reshape(turned).permute([rule.axes.index(axis) for axis in range(len(turned))])
        dtype = getattr(torch, (dtypes or {}).get(rule.key, ""), value.dtype)
        result[rule.key] = value.to(dtype, copy=True).reshape(rule.shape).contiguous()
    for rule in rules:  # only what a twin still says; either may have been trained since
        if rule.key in left_out:
            twins = [result[name] for name in rule.twins if name in result and name not in left_out]
            if rule.is_unread or any(torch.equal(result[rule.key], twin) for twin in twins):
                del result[rule.key]
    return result


def _shaped(rule: Rule, name: str, value: Tensor) -> Tensor:
    """The tensor in the shape of its rule; axes of length 1 do not count."""
    if [n for n in value.shape if n > 1] != [n for n in rule.shape if n > 1]:
        raise CheckpointError(f"{name} has shape {tuple(value.shape)}; its config asks for {rule.shape}")
    if rule.constant is not None and rule.checked:
        value = value.reshape(rule.constant.shape)
        rounding = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
        if not torch.allclose(value.float(), rule.constant.float(), rtol=0, atol=max(_CLOSE, rounding)):
            raise CheckpointError(
                f"{name} should be the constant that fourm computes ("
                f"{'zero' if not rule.constant.any() else f'a table of shape {tuple(rule.constant.shape)}'}), but "
                f"differs from it by up to {(value.float() - rule.constant.float()).abs().max():.3g}"
            )
    return value


def _place(
    state: dict[str, Tensor],
    covered: dict[str, int],
    rule: Rule,
    target: str,
    value: Tensor,
    own: Mapping[str, Tensor],
) -> None:
    shape, dtype = own[target].shape, own[target].dtype
    if rule.rows is not None:
        if target not in state:
            state[target] = torch.zeros(shape, dtype=dtype)
        rows = state[target][rule.rows]
        rows.copy_(value.reshape(rows.shape))
        covered[target] = covered.get(target, 0) + len(rows)
        return
    value = value.reshape(shape).to(dtype)
    if target in state and not torch.equal(state[target], value):
        raise CheckpointError(f"two published keys give {target} different values; one of them is {rule.key}")
    state[target] = value
    covered[target] = shape[:1].numel()


def _keep(result: Imported, rule: Rule, value: Tensor) -> None:
    expected = torch.float32 if value.is_floating_point() else value.dtype
    if value.dtype != expected:
        result.dtypes[rule.key] = str(value.dtype).removeprefix("torch.")
    if not rule.targets and (rule.constant is None or not torch.equal(value, rule.constant.to(value.dtype))):
        result.kept[rule.key] = value


def _some(names: list[str], what: str) -> str:
    if not names:
        return f"none {what}"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what}: {', '.join(names[:_LISTED])}{more}"
