"""The loss of a step does not depend on how the step is cut into micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourm.objectives.base import Loss

WEIGHTS = {"a": 2.0, "c": 0.5}


def part(*values: float) -> tuple[torch.Tensor, float]:
    return torch.tensor(values, dtype=torch.float64).sum(), float(len(values))


# Three micro-batches; `b` is absent from one of them, `c` from all.
MICRO = [
    {"a": part(1, 2, 3), "b": part(10), "c": part()},
    {"a": part(4), "b": part(), "c": part()},
    {"a": part(5, 6), "b": part(20, 30), "c": part()},
]
TOTALS = {name: sum(micro[name][1] for micro in MICRO) for name in ("a", "b", "c")}
JOINT = {name: (torch.stack([m[name][0] for m in MICRO]).sum(), TOTALS[name]) for name in TOTALS}


@pytest.mark.parametrize(
    ("reduction", "weights", "expected"),
    [
        ("token", {}, (21 + 60) / 9),
        ("token", WEIGHTS, (2 * 21 + 60) / (2 * 6 + 3)),
        ("modality", {}, (21 / 6 + 60 / 3 + 0) / 3),
        ("modality", WEIGHTS, (2 * 21 / 6 + 60 / 3 + 0) / 3),
        ("weighted", {}, 21 / 6 + 60 / 3),
        ("weighted", WEIGHTS, 2 * 21 / 6 + 60 / 3),
    ],
)
@pytest.mark.parametrize("tensors", [False, True])
def test_the_shares_of_micro_batches_add_up_to_the_loss_of_the_step(
    reduction: Any, weights: dict[str, float], expected: float, tensors: bool
) -> None:
    totals: Any = {k: torch.tensor(v, dtype=torch.float64) for k, v in TOTALS.items()} if tensors else TOTALS
    assert Loss(JOINT, reduction, weights).scalar(totals).item() == pytest.approx(expected)
    shares = [Loss(micro, reduction, weights).scalar(totals).item() for micro in MICRO]
    assert sum(shares) == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["token", "modality", "weighted"])
@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)])
def test_a_step_that_asks_nothing_costs_nothing_and_has_gradients(reduction: Any, zero: Any) -> None:
    weight = torch.ones(1, requires_grad=True)
    loss = Loss({"a": ((weight * 0).sum(), 0.0), "b": ((weight * 0).sum(), 0.0)}, reduction).scalar(
        {"a": zero, "b": zero}
    )
    assert loss.item() == 0
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 0


def test_the_published_loss_counts_absent_modalities_as_zero() -> None:
    """So that it falls as modalities are added, which the mean over tokens does not."""
    few, many = {"a": part(4, 4)}, {"a": part(4, 4), "b": part(), "c": part(), "d": part()}
    totals = {"a": 2.0, "b": 0.0, "c": 0.0, "d": 0.0}
    assert Loss(few, "modality").scalar(totals).item() == 4
    assert Loss(many, "modality").scalar(totals).item() == 1
    assert Loss(many, "token").scalar(totals).item() == 4


def test_counts_of_all_ranks_may_come_as_tensors_that_nobody_reads() -> None:
    totals = {"a": torch.ones((), device="meta"), "b": 3.0}
    parts = {name: (torch.ones((), device="meta"), 1.0) for name in totals}
    for reduction in ("token", "modality", "weighted"):
        assert Loss(parts, reduction).scalar(totals).device.type == "meta"  # type: ignore[arg-type]
