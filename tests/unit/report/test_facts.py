"""Named numbers as a table."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.report.facts import _written, facts
from fourm.report.text import PAPER


def ink(values: dict[str, float]) -> np.ndarray:
    """Where something dark is written."""
    return np.asarray(facts(values).convert("L")) < 160


def test_there_is_a_line_for_each_fact_with_its_name_on_the_left_and_its_value_on_the_right() -> None:
    one, two = ink({"n_humans": 2}), ink({"n_humans": 2, "entropy": 7.5})
    assert two.shape[0] - one.shape[0] == 14
    assert np.array_equal(two[8:22], one[8:22])
    assert two[22:36, :100].any()
    assert two[22:36, 150:].any()
    assert not two[:, 100:150].any()


def test_other_values_are_other_pictures_and_equal_ones_the_same() -> None:
    pictures = [facts({"n_humans": n}).tobytes() for n in (2, 2, 3)]
    assert pictures[0] == pictures[1] != pictures[2]


def test_all_of_4m_21s_facts_fit_a_square_that_a_grid_shows_as_it_is() -> None:
    picture = facts({f"semantic_diversity_{n}": n / 7 for n in range(21)})
    assert max(picture.size) <= 320
    assert picture.getpixel((0, picture.height - 1)) == PAPER


@pytest.mark.parametrize(
    ("value", "text"),
    [(640, "640"), (2.0, "2"), (0.123456, "0.1235"), (1234567.8, "1.235e+06"), (float("nan"), "nan"),
     (float("inf"), "inf"), (True, "True"), ("high", "high")],
)  # fmt: skip
def test_numbers_are_written_short(value: object, text: str) -> None:
    assert _written(value) == text
