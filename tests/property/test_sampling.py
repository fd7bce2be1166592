"""Statements about sampling that hold for all inputs."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fourm.generate.grids import GridCanvas
from fourm.generate.sampling import categorical, draw, guide, keep_top_k, keep_top_p
from fourm.generate.schedule import temperatures, token_counts

LOGITS = arrays.arrays(np.float32, (3, 7), elements=st.floats(-8, 8, width=32))
UNIFORM = st.floats(2.0**-24, 1 - 2.0**-24, width=32)


def as_tensor(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(logits))


@given(LOGITS, st.integers(1, 9))
def test_top_k_keeps_the_k_largest(logits: np.ndarray, k: int) -> None:
    values = as_tensor(logits)
    kept = keep_top_k(values, k).isfinite()
    assert (kept.sum(-1) == min(k, 7)).all()
    smallest_kept = values.masked_fill(~kept, torch.inf).amin(-1)
    largest_left = values.masked_fill(kept, -torch.inf).amax(-1)
    assert (smallest_kept >= largest_left).all()


@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: np.ndarray, p: float) -> None:
    probabilities = as_tensor(logits).softmax(-1)
    kept = keep_top_p(as_tensor(logits), p).isfinite()
    inside = (probabilities * kept).sum(-1)
    assert (inside >= p - 1e-5).all()
    least = probabilities.masked_fill(~kept, 2.0).amin(-1)
    equals = (probabilities == least[:, None]).sum(-1)  # all of them are kept
    assert (inside - equals * least < p + 1e-5).all()
    assert (probabilities.masked_fill(~kept, -1.0).amax(-1) == probabilities.amax(-1)).all()


@given(LOGITS, UNIFORM, st.integers(1, 6), st.floats(0.05, 4.0))
def test_only_kept_tokens_are_drawn(logits: np.ndarray, u: float, k: int, temperature: float) -> None:
    values = as_tensor(logits)[:, None]
    drawn = draw(values, torch.full((3, 1), u), temperature, top_k=k)
    assert keep_top_k(values, k).gather(-1, drawn.ids[..., None]).isfinite().all()
    assert ((drawn.confidence > 0) & (drawn.confidence <= 1)).all()


@given(arrays.arrays(np.float32, 6, elements=st.sampled_from([0.0, 0.0, 0.1, 0.25, 1.0, 3.0])), UNIFORM)
def test_a_draw_lies_where_the_distribution_function_crosses(weights: np.ndarray, u: float) -> None:
    if not weights.sum():
        return
    chosen = int(categorical(torch.from_numpy(np.array(weights)), torch.tensor(u)))
    cumulative = weights.astype(np.float64).cumsum() / weights.astype(np.float64).sum()
    assert weights[chosen] > 0
    assert cumulative[chosen] >= u - 1e-5
    assert chosen == 0 or cumulative[chosen - 1] <= u + 1e-5


@given(LOGITS, LOGITS, st.floats(-3, 5))
def test_guidance_between_equal_branches_changes_nothing(a: np.ndarray, b: np.ndarray, weight: float) -> None:
    torch.testing.assert_close(guide(as_tensor(a), [as_tensor(a)], [weight]), as_tensor(a))
    expected = (1 - weight) * as_tensor(a) + weight * as_tensor(b)
    torch.testing.assert_close(guide(as_tensor(a), [as_tensor(b)], [weight]), expected, atol=1e-4, rtol=1e-4)


@given(st.sampled_from(["cosine", "linear"]), st.lists(st.integers(0, 300), min_size=1, max_size=4), st.integers(1, 60))
def test_counts_cover_what_is_missing(schedule: str, missing: list[int], num_steps: int) -> None:
    counts = token_counts(schedule, missing, num_steps)
    assert counts.shape == (num_steps, len(missing))
    assert counts.sum(0).tolist() == missing
    assert (counts >= 0).all()


@given(st.sampled_from(["constant", "linear", "onex:0.2:0.5", "onex:0.1:2"]), st.integers(1, 300), st.integers(1, 40))
def test_temperatures_start_at_most_at_their_value_and_never_rise(schedule: str, missing: int, num_steps: int) -> None:
    heat = temperatures(schedule, 3.0, token_counts("cosine", [missing], num_steps))[:, 0]
    assert heat[0] <= 3.0
    assert heat[0] == 3.0 or schedule.startswith("onex")
    assert (np.diff(heat) <= 1e-12).all()
    assert (heat >= 0).all()


@given(arrays.arrays(np.int64, (2, 9), elements=st.integers(-1, 4)))
def test_a_canvas_tells_its_known_tokens_from_its_missing_ones(ids: np.ndarray) -> None:
    canvas = GridCanvas(torch.from_numpy(np.array(ids)))
    positions, known = canvas.known(9)
    missing = canvas.missing(9)
    for row in range(2):
        assert missing[row][missing[row] >= 0].tolist() == np.flatnonzero(ids[row] < 0).tolist()
        assert positions[row][positions[row] >= 0].tolist() == np.flatnonzero(ids[row] >= 0).tolist()
        assert known[row][known[row] >= 0].tolist() == ids[row][ids[row] >= 0].tolist()
    canvas.write(missing, torch.full((2, 9), 7))
    assert np.array_equal(canvas.ids.numpy(), np.where(ids < 0, 7, ids))
