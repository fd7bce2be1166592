"""Span masking: what is hidden can be put back, sentinels count up, budgets hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm.objectives.configs import Keep
from fourm.objectives.spans import draw_keep, draw_span_mask, fit_target, mask_spans, unmask_spans
from fourm.tokens import SpecialIds

SPECIAL = SpecialIds()
WORDS = st.integers(204, 29_999)
KEEPS: list[Keep] = ["random", "all", "binary"]


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def sentinels(tokens: np.ndarray) -> list[int]:
    return [t for t in tokens.tolist() if 4 <= t < 204]


@st.composite
def masked(draw: st.DrawFn, longest: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and which of them stay visible."""
    tokens = draw(st.lists(WORDS, max_size=longest))
    kept = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    return np.array(tokens, np.int64), np.array(kept, bool)


# ------------------------------------------------------------------ the published example, "a photo of a cat" and end


EXAMPLE = ids(4321, 5151, 4925, 4321, 4224, 3)


@pytest.mark.parametrize(
    ("hidden", "visible", "target"),
    [
        ([1, 2, 5], [4321, 5, 4321, 4224, 6], [5, 5151, 4925, 6, 3, 7]),
        ([], [4321, 5151, 4925, 4321, 4224, 3], [5]),
        ([0, 1, 2, 3, 4, 5], [5], [5, 4321, 5151, 4925, 4321, 4224, 3, 6]),
        ([0], [5, 5151, 4925, 4321, 4224, 3], [5, 4321, 6]),
        ([0, 2, 4], [5, 5151, 6, 4321, 7, 3], [5, 4321, 6, 4925, 7, 4224, 8]),
    ],
)
def test_the_published_example(hidden: list[int], visible: list[int], target: list[int]) -> None:
    kept = np.ones(6, bool)
    kept[hidden] = False
    shown, asked = mask_spans(EXAMPLE, kept, SPECIAL)
    assert shown.tolist() == visible
    assert asked.tolist() == target


# ------------------------------------------------------------------ masking and putting back


@given(masked())
def test_putting_back_what_was_hidden_gives_the_sequence(case: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, kept = case
    visible, target = mask_spans(tokens, kept, SPECIAL)
    assert unmask_spans(visible, target, SPECIAL).tolist() == tokens.tolist()


@given(masked())
def test_every_token_is_shown_or_asked_and_none_is_both(case: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, kept = case
    visible, target = mask_spans(tokens, kept, SPECIAL)
    assert [t for t in visible.tolist() if t >= 204] == tokens[kept].tolist()
    assert [t for t in target.tolist() if t >= 204] == tokens[~kept].tolist()


@given(masked())
def test_sentinels_count_up_and_the_target_has_one_more(case: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, kept = case
    visible, target = mask_spans(tokens, kept, SPECIAL)
    runs = int((~kept & np.concatenate([[True], kept[:-1]])[: len(kept)]).sum())
    assert sentinels(visible) == [5 + i for i in range(runs)]
    assert sentinels(target) == [5 + i for i in range(runs + 1)]
    assert target[-1] == 5 + runs
    assert len(visible) == kept.sum() + runs
    assert len(target) == (~kept).sum() + runs + 1


def test_runs_beyond_the_last_sentinel_stay_visible() -> None:
    tokens = np.arange(500) + 1000
    kept = np.arange(500) % 2 == 1
    visible, target = mask_spans(tokens, kept, SPECIAL)
    assert max(sentinels(target)) == 203  # [S_199]
    assert sentinels(visible) == list(range(5, 203))
    assert unmask_spans(visible, target, SPECIAL).tolist() == tokens.tolist()


@given(masked(), st.lists(st.integers(0, 400), max_size=30))
def test_any_answer_at_all_can_be_put_in(case: tuple[np.ndarray, np.ndarray], answer: list[int]) -> None:
    visible, _ = mask_spans(*case, SPECIAL)
    out = unmask_spans(visible, np.array(answer, np.int64), SPECIAL)
    assert not sentinels(out)
    assert [t for t in out.tolist() if t in visible] or not case[1].any() or not len(case[0])


def test_sentinels_without_an_answer_are_left_out() -> None:
    assert unmask_spans(ids(300, 5, 301, 6, 302), ids(6, 400, 401), SPECIAL).tolist() == [300, 301, 400, 401, 302]


def test_what_an_answer_says_before_its_first_sentinel_is_dropped() -> None:
    assert unmask_spans(ids(5), ids(999, 5, 400, 6), SPECIAL).tolist() == [400]


# ------------------------------------------------------------------ drawing masks


@given(st.lists(WORDS, max_size=60), st.integers(0, 70), st.sampled_from(KEEPS), st.integers(0, 2**32))
def test_a_drawn_mask_fits_its_budget_and_loses_nothing(tokens: list[int], budget: int, keep: Keep, seed: int) -> None:
    sequence = np.array([*tokens, 3], np.int64)
    visible, target = draw_span_mask(sequence, budget, keep, SPECIAL, np.random.default_rng(seed))
    assert len(visible) <= budget
    if budget:
        assert unmask_spans(visible, target, SPECIAL).tolist() == sequence.tolist()


@given(
    st.lists(st.lists(WORDS, max_size=4), max_size=12),
    st.integers(1, 30),
    st.sampled_from(KEEPS),
    st.integers(0, 2**32),
)
def test_chunks_are_shown_or_hidden_whole(chunks: list[list[int]], budget: int, keep: Keep, seed: int) -> None:
    # Every chunk is marked by its own number, so that what became of it can be read off.
    units = [np.full(len(chunk), 1000 + i, np.int64) for i, chunk in enumerate(chunks)]
    visible, target = draw_span_mask(units, budget, keep, SPECIAL, np.random.default_rng(seed))
    assert len(visible) <= budget
    assert not set(visible.tolist()) & set(target.tolist()) - set(range(4, 204))
    whole = np.concatenate([ids(), *units])
    assert unmask_spans(visible, target, SPECIAL).tolist() == whole.tolist()


@pytest.mark.parametrize("keep", KEEPS)
def test_no_budget_hides_everything_and_shows_not_even_a_sentinel(keep: Keep) -> None:
    visible, target = draw_span_mask(EXAMPLE, 0, keep, SPECIAL, np.random.default_rng(0))
    assert visible.tolist() == []
    assert target.tolist() == [5, *EXAMPLE.tolist(), 6]


def test_keep_all_shows_everything_that_fits() -> None:
    visible, target = draw_span_mask(EXAMPLE, 6, "all", SPECIAL, np.random.default_rng(0))
    assert visible.tolist() == EXAMPLE.tolist()
    assert target.tolist() == [5]


def test_keep_all_shows_most_of_what_does_not_fit() -> None:
    tokens = np.arange(100) + 1000
    rng = np.random.default_rng(0)
    shown = [len(draw_span_mask(tokens, 80, "all", SPECIAL, rng)[0]) for _ in range(200)]
    # Shares shrink by tenths, and a mask that fits is taken as it is: most of the budget is used.
    assert max(shown) <= 80
    assert np.mean(shown) > 70


def test_keep_binary_shows_all_or_nothing() -> None:
    rng = np.random.default_rng(0)
    shown = [draw_span_mask(EXAMPLE, 6, "binary", SPECIAL, rng)[0].tolist() for _ in range(400)]
    assert all(tokens in ([5], EXAMPLE.tolist()) for tokens in shown)
    assert abs(sum(tokens == [5] for tokens in shown) - 200) < 5 * 10


def test_keep_random_shows_a_uniform_share() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([draw_keep("random", rng) for _ in range(4000)])
    assert abs(shares.mean() - 0.5) < 5 * (1 / 12 / 4000) ** 0.5
    tokens = np.arange(50) + 1000
    kept = [int((draw_span_mask(tokens, 50, "random", SPECIAL, rng)[0] >= 1000).sum()) for _ in range(4000)]
    # Each number of kept tokens 0..50 is equally likely when the share is uniform; all masks but none fit here.
    assert abs(np.mean(kept) - 25) < 5 * (50 * 52 / 12 / 4000) ** 0.5
    assert np.bincount(kept, minlength=51).min() > 30


# ------------------------------------------------------------------ cutting targets


@given(masked(), st.integers(0, 60), st.integers(0, 2**32))
def test_a_cut_target_is_a_piece_that_begins_with_a_sentinel(case: Any, budget: int, seed: int) -> None:
    _, target = mask_spans(*case, SPECIAL)
    cut = fit_target(target, budget, SPECIAL, np.random.default_rng(seed))
    assert len(cut) <= budget
    if len(target) <= budget:
        assert cut.tolist() == target.tolist()
    elif budget:
        assert len(cut) > 0
        start = target.tolist().index(cut[0])  # sentinels are unique
        assert cut[0] < 204
        assert cut.tolist() == target[start : start + len(cut)].tolist()
        assert start < len(target) - 1  # never only the last sentinel, which asks nothing
        if len(cut) < budget:  # then it runs to the end, and no earlier sentinel would have fitted
            assert start + len(cut) == len(target)
            earlier = [i for i, t in enumerate(target.tolist()) if t < 204 and i < start]
            assert all(len(target) - i > budget for i in earlier)


TARGET = ids(5, 1000, 1001, 6, 1002, 7, 1003, 1004, 1005, 8)


@pytest.mark.parametrize(
    ("budget", "outcomes"),
    [
        (10, [TARGET.tolist()]),
        (0, [[]]),
        (1, [[5], [6], [7]]),
        (2, [[5, 1000], [6, 1002], [7, 1003]]),
        (4, [[5, 1000, 1001, 6], [6, 1002, 7, 1003], [7, 1003, 1004, 1005]]),
        # From 7 only five tokens follow; the earliest sentinel with at most six is 7 itself.
        (6, [[5, 1000, 1001, 6, 1002, 7], [6, 1002, 7, 1003, 1004, 1005], [7, 1003, 1004, 1005, 8]]),
        # From 7 five follow, less than eight: cut begins at 6, whose seven all fit; 6 itself is too short as well.
        (8, [[5, 1000, 1001, 6, 1002, 7, 1003, 1004], [6, 1002, 7, 1003, 1004, 1005, 8]]),
    ],
)
def test_every_span_has_its_turn(budget: int, outcomes: list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    found = [fit_target(TARGET, budget, SPECIAL, rng).tolist() for _ in range(200)]
    assert sorted({tuple(cut) for cut in found}) == sorted(tuple(cut) for cut in outcomes)


def test_the_start_of_a_cut_is_uniform_over_the_spans() -> None:
    rng = np.random.default_rng(0)
    starts = [int(fit_target(TARGET, 2, SPECIAL, rng)[0]) for _ in range(3000)]
    assert np.bincount(starts, minlength=8)[5:8] == pytest.approx([1000] * 3, abs=5 * (3000 * 2 / 9) ** 0.5)
