"""Dirichlet budgets: whole tokens, within capacity, in the right proportions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm.errors import ConfigError
from fourm.objectives.budget import dirichlet_budget, draw_total

ALPHAS = st.one_of(st.just(0.0), st.floats(1e-12, 1e3), st.sampled_from([1e-300, 1e-9, 0.01, 1.0, 1000.0]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, np.ndarray, np.random.Generator]:
    """Alphas (at least one above 0), total, capacities, generator."""
    alphas = draw(st.lists(ALPHAS, min_size=1, max_size=8).filter(any))
    capacity = draw(st.lists(st.integers(0, 300), min_size=len(alphas), max_size=len(alphas)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return np.array(alphas), draw(st.integers(0, 400)), np.array(capacity), rng


@given(problems(), st.booleans())
def test_budgets_are_whole_within_capacity_and_hand_out_no_more_than_there_is(
    problem: tuple[np.ndarray, int, np.ndarray, np.random.Generator], redistribute: bool
) -> None:
    alphas, total, capacity, rng = problem
    budget = dirichlet_budget(alphas, total, capacity, rng, redistribute=redistribute)
    assert budget.dtype == np.int64
    assert budget.shape == alphas.shape
    assert (budget >= 0).all()
    assert (budget <= capacity).all()
    assert budget.sum() <= total
    assert (budget[alphas == 0] == 0).all()


@given(problems())
def test_everything_is_handed_out_where_everything_fits(
    problem: tuple[np.ndarray, int, np.ndarray, np.random.Generator],
) -> None:
    alphas, total, capacity, rng = problem
    assert dirichlet_budget(alphas, total, capacity + total, rng).sum() == total


@given(problems())
def test_redistribution_leaves_nothing_over_while_there_is_room(
    problem: tuple[np.ndarray, int, np.ndarray, np.random.Generator],
) -> None:
    alphas, total, capacity, rng = problem
    budget = dirichlet_budget(alphas, total, capacity, rng, redistribute=True)
    assert budget.sum() == min(total, capacity[alphas > 0].sum())


@given(problems())
def test_the_same_generator_gives_the_same_budget(
    problem: tuple[np.ndarray, int, np.ndarray, np.random.Generator],
) -> None:
    alphas, total, capacity, rng = problem
    state = rng.bit_generator.state
    first = dirichlet_budget(alphas, total, capacity, rng)
    rng.bit_generator.state = state
    assert (dirichlet_budget(alphas, total, capacity, rng) == first).all()


def draws(alphas: list[float], total: int, capacity: list[int], repeats: int = 4000, **options: object) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack(
        [dirichlet_budget(np.array(alphas), total, np.array(capacity), rng, **options) for _ in range(repeats)]  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("alphas", [[0.5, 0.5, 1.0], [10.0, 20.0, 70.0], [0.05, 0.05, 0.1, 0.3]])
def test_shares_have_the_mean_of_the_dirichlet_distribution(alphas: list[float]) -> None:
    total = 1000
    shares = draws(alphas, total, [total] * len(alphas)) / total
    a = np.array(alphas)
    mean, variance = a / a.sum(), a * (a.sum() - a) / (a.sum() ** 2 * (a.sum() + 1))
    # Rounding goes to the larger shares; of 1,000 tokens at most one per modality moves.
    assert (np.abs(shares.mean(0) - mean) < 5 * np.sqrt(variance / len(shares)) + 0.002).all()
    assert shares.var(0) == pytest.approx(variance, rel=0.15, abs=2e-5)


def test_small_concentrations_give_all_to_one_modality_and_large_ones_share() -> None:
    assert (draws([1e-9] * 4, 60, [60] * 4, 500).max(1) == 60).all()
    assert (draws([1e6] * 4, 60, [60] * 4, 500) >= 14).all()


def test_the_modality_that_gets_all_is_chosen_in_proportion() -> None:
    winners = draws([1e-9, 1e-9, 2e-9], 10, [10] * 3).argmax(1)
    assert np.bincount(winners, minlength=3) / 4000 == pytest.approx([0.25, 0.25, 0.5], abs=5 * (0.25 / 4000) ** 0.5)


def test_a_dominant_modality_takes_all_that_fits() -> None:
    budgets = draws([1000.0, 0.0, 0.0], 128, [196, 196, 196], 20)
    assert (budgets == [128, 0, 0]).all()
    assert (draws([1000.0, 0.0, 0.0], 128, [100, 196, 196], 20) == [100, 0, 0]).all()


def test_what_exceeds_a_capacity_is_lost_unless_redistributed() -> None:
    lost = draws([1000.0, 1.0], 128, [50, 200], 50)
    assert (lost[:, 0] == 50).all()
    assert (lost.sum(1) < 128).all()
    kept = draws([1000.0, 1.0], 128, [50, 200], 50, redistribute=True)
    assert (kept == [50, 78]).all()


def test_redistribution_follows_the_shares() -> None:
    budgets = draws([1e6, 1e6, 3e6], 500, [10, 400, 400], 20, redistribute=True)
    # 90 of the first are left; they go 1 : 3 to the others, whose own shares are 100 and 300.
    assert budgets.mean(0) == pytest.approx([10, 122, 368], abs=2)


def test_draws_are_repeated_until_the_minimum_holds() -> None:
    budgets = draws([0.5, 0.5, 0.5], 60, [60] * 3, 300, minimum=np.array([10, 0, 5]))
    assert (budgets[:, 0] >= 10).all()
    assert (budgets[:, 2] >= 5).all()
    assert budgets[:, 1].min() == 0


def test_an_impossible_minimum_gives_up_after_a_hundred_draws() -> None:
    assert (draws([1.0, 1.0], 10, [10, 10], 2, minimum=np.array([11, 0])).sum(1) == 10).all()


def test_a_minimum_above_the_capacity_asks_for_the_capacity() -> None:
    assert (draws([1.0, 1.0], 10, [3, 10], 50, minimum=np.array([100, 0]))[:, 0] == 3).all()


def test_nothing_can_be_drawn_when_every_alpha_is_zero() -> None:
    with pytest.raises(ConfigError, match="every modality has alpha 0"):
        draws([0.0, 0.0], 10, [10, 10], 1)


def test_totals_are_uniform_between_their_bounds() -> None:
    rng = np.random.default_rng(0)
    totals = [draw_total(3, 6, rng) for _ in range(4000)]
    assert np.bincount(totals)[3:] / 4000 == pytest.approx([0.25] * 4, abs=5 * (0.19 / 4000) ** 0.5)
    assert min(totals) == 3


@pytest.mark.parametrize(("smallest", "largest"), [(None, 7), (7, 7), (9, 7)])
def test_totals_without_room_are_the_largest(smallest: int | None, largest: int) -> None:
    assert draw_total(smallest, largest, np.random.default_rng(0)) == 7
