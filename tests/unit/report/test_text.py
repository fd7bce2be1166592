"""Wrapping and text cards."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fourm.report.text import PAPER, text_card, text_width, wrap

SENTENCE = "A room with a red bed, a wardrobe left of the window and two lamps."


@given(st.lists(st.text("abcdefgW.", min_size=1, max_size=40), min_size=1, max_size=12), st.integers(40, 300))
def test_wrapped_lines_fit_and_lose_no_letter(words: list[str], width: int) -> None:
    lines = wrap(" ".join(words), width, 14)
    assert all(text_width(line, 14) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words)


def test_line_breaks_are_kept() -> None:
    assert wrap("one\ntwo", 200, 14) == ["one", "two"]


def test_a_card_grows_with_its_text() -> None:
    short, long = text_card("A bed.", 160), text_card(SENTENCE * 4, 160)
    assert short.size == (160, 80)
    assert long.width == 160
    assert long.height > short.height


def test_a_card_of_fixed_size_keeps_its_margin_free() -> None:
    pixels = np.asarray(text_card(SENTENCE * 30, 160, 120))
    assert pixels.shape == (120, 160, 3)
    margin = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3)])
    assert (margin == PAPER).all()
    assert (pixels != PAPER).any()
