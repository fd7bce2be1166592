import math

import numpy as np
import pytest

from fourm.errors import ConfigError, DataError
from fourm.generate.schedule import (
    check_counts,
    cosine_counts,
    linear_counts,
    parse_temperature_schedule,
    temperatures,
    token_counts,
)


def test_cosine_leaves_the_share_that_maskgit_masks() -> None:
    missing = 256 - np.cumsum(cosine_counts(256, 8))
    assert missing.tolist() == [math.floor(256 * math.cos(math.pi / 2 * t / 8)) for t in range(1, 8)] + [0]


def test_cosine_takes_at_least_one_token_per_step() -> None:
    counts = cosine_counts(64, 25)
    assert min(counts) == 1
    assert sum(counts) == 64


def test_more_steps_than_tokens_leave_empty_steps_at_the_end() -> None:
    assert cosine_counts(3, 5) == [1, 1, 1, 0, 0]


def test_linear_is_even() -> None:
    assert linear_counts(196, 49) == [4] * 49
    assert linear_counts(10, 4) == [3, 3, 2, 2]
    assert linear_counts(2, 4) == [1, 1, 0, 0]


def test_every_sample_has_counts_for_what_it_lacks() -> None:
    counts = token_counts("linear", [10, 0, 4], 2)
    assert counts.T.tolist() == [[5, 5], [0, 0], [2, 2]]


def test_listed_counts_are_taken_as_they_are() -> None:
    assert token_counts([1, 5, 2], [8, 8], 3).T.tolist() == [[1, 5, 2], [1, 5, 2]]


def test_listed_counts_must_cover_the_missing_tokens() -> None:
    with pytest.raises(DataError, match="takes 8 tokens, but 9 are missing"):
        token_counts([1, 5, 2], [9], 3)


@pytest.mark.parametrize("counts", [[], [3, -1]])
def test_listed_counts_must_be_whole_numbers_of_0_or_more(counts: list[int]) -> None:
    with pytest.raises(ConfigError, match="one per step"):
        check_counts(counts, len(counts), "step 'x'")


def test_linear_temperature_falls_with_the_share_of_decoded_tokens() -> None:
    counts = token_counts([2, 6, 2], [10], 3)
    np.testing.assert_allclose(temperatures("linear", 5.0, counts)[:, 0], [5.0, 4.0, 1.0])


def test_onex_temperature_follows_its_closed_form() -> None:
    counts = token_counts("linear", [100], 4)
    x = 1 + np.arange(4)  # 99 / (100 - 1) more at each step
    left = np.array([0.75, 0.5, 0.25, 0.0])
    expected = 0.5 + 5.5 * left * (x**-0.5 - 0.1) / 0.9
    np.testing.assert_allclose(temperatures("onex:0.5:0.5", 6.0, counts)[:, 0], expected)


def test_the_published_settings_for_feature_maps_start_hot_and_end_at_their_minimum() -> None:
    """`onex:0.5:0.5` from 5 over 196 tokens in 50 steps; the figures are those of the rule, worked out by hand."""
    heat = temperatures("onex:0.5:0.5", 5.0, token_counts("linear", [196], 50))[:, 0]
    x = 1 + 99 * 10 / 195
    assert heat[0] == pytest.approx(0.5 + 4.5 * 192 / 196)
    assert heat[10] == pytest.approx(0.5 + 4.5 * (196 - 44) / 196 * (x**-0.5 - 0.1) / 0.9)
    assert heat[-1] == 0.5


def test_one_step_of_onex_draws_at_its_minimum() -> None:
    assert temperatures("onex:0.5:0.5", 6.0, token_counts("linear", [1, 7, 0], 1))[0, :2].tolist() == [0.5, 0.5]


def test_constant_temperature_is_constant() -> None:
    assert temperatures("constant", 3.0, token_counts("cosine", [9, 4], 3)).tolist() == [[3.0, 3.0]] * 3


@pytest.mark.parametrize("schedule", ["cosine", "onex", "onex:1", "onex:a:b", "linear:2", "onex:0:-1"])
def test_unknown_temperature_schedules_are_refused(schedule: str) -> None:
    with pytest.raises(ConfigError, match="expected constant, linear or onex:MIN:POWER"):
        parse_temperature_schedule(schedule, "step 'x'")
