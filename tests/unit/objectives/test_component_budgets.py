"""A component of the mixture may have budgets of its own."""

from __future__ import annotations

import pytest

from fourm import catalog, rng
from fourm.errors import ConfigError
from fourm.objectives.configs import MaskComponent, MaskedConfig
from fourm.objectives.masked import Masked
from fourm.recipe.synthetic import synthetic_sample

MODALITIES = catalog.resolve(["tok_depth@64", "tok_normal@64"])


def shown(component: MaskComponent, **config: int) -> set[int]:
    """Numbers of visible tokens over many samples."""
    objective = Masked(MaskedConfig(components=[component], **config), MODALITIES)  # type: ignore[arg-type]
    sample = synthetic_sample(MODALITIES, rng.generator("sample"))
    return {len(objective.prepare(sample, rng.generator(n))[0]) for n in range(60)}


def test_a_smallest_budget_of_its_own_makes_the_components_budget_vary() -> None:
    numbers = shown(MaskComponent(num_input_tokens=12, min_input_tokens=3))
    assert min(numbers) >= 3
    assert max(numbers) <= 12
    assert len(numbers) > 5


def test_a_largest_budget_of_its_own_is_fixed_although_the_objectives_varies() -> None:
    assert shown(MaskComponent(num_input_tokens=12), num_input_tokens=30, min_input_tokens=20) == {12}


def test_without_budgets_of_its_own_a_component_uses_the_objectives() -> None:
    numbers = shown(MaskComponent(), num_input_tokens=30, min_input_tokens=20)
    assert (min(numbers) >= 20, max(numbers) <= 30) == (True, True)
    assert len(numbers) > 3


def test_a_smallest_budget_above_the_largest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"components\[0\].min_input_tokens is 13, above the largest budget 12"):
        shown(MaskComponent(num_input_tokens=12, min_input_tokens=13))
