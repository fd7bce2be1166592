"""Palettes as text: the number of colours, then red, green and blue of each (4M-21)."""

from __future__ import annotations

from typing import Any

import pytest

from fourm.errors import DataError
from fourm.tokenizers.structured.palette import palette_to_text, text_to_palette


def test_one_palette_as_published() -> None:
    assert palette_to_text([(10, 20, 30)]) == "v1=1 v0=10 v0=20 v0=30"
    assert text_to_palette("v1=1 v0=10 v0=20 v0=30") == [(10, 20, 30)]


def test_seven_colours_and_the_end_fit_the_23_tokens_of_the_modality() -> None:
    assert len(palette_to_text([(0, 128, 255)] * 7).split()) == 1 + 3 * 7 == 23 - 1


def test_colours_keep_their_order() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert text_to_palette(palette_to_text(colors)) == colors


def test_no_colours_are_no_text() -> None:
    assert palette_to_text([]) == ""
    assert text_to_palette("") == []


@pytest.mark.parametrize("colors", [[(0, 0, 256)], [(-1, 0, 0)], [(1, 2)], [("a", 0, 0)], [5], "red", 5])
def test_what_is_not_a_colour_is_refused(colors: Any) -> None:
    with pytest.raises(DataError, match="expected"):
        palette_to_text(colors)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1=2 v0=1 v0=2 v0=3", [(1, 2, 3)]),  # breaks off
        ("v1=1 v0=1 v0=2 v0=3 v0=4 v0=5 v0=6", [(1, 2, 3)]),  # more than it says
        ("v1=2 v0=1 v0=2 v0=3 v0=4 v0=256 v0=6", [(1, 2, 3)]),
        ("v1=2 v0=1 v0=2 v1=3 v0=4", []),
        ("v0=1 v0=2 v0=3", []),  # of no number
        ("v1=0 v0=1 v0=2 v0=3", []),
        ("red v1=5 v1=1 v0=1 v0=2 v0=3", [(1, 2, 3)]),
        ("v1=999999 v0=1 v0=2 v0=3", [(1, 2, 3)]),
    ],
)
def test_parser_reads_what_there_is_of_the_first_palette(text: str, expected: list[tuple[int, int, int]]) -> None:
    assert text_to_palette(text) == expected
