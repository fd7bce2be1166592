"""Classes are found in texts as people write them."""

from __future__ import annotations

import pytest

from fourm.catalog import FASHION_CLASSES, ROOM_CLASSES
from fourm.words import class_in, names_in


def test_names_come_once_in_the_order_of_the_text() -> None:
    assert names_in("a red rug, two beds, and a bed", ROOM_CLASSES) == ["rug", "bed"]


def test_irregular_plurals_are_found() -> None:
    assert names_in("two shelves", ROOM_CLASSES) == ["shelf"]
    assert names_in("three dresses", FASHION_CLASSES) == ["dress"]


@pytest.mark.parametrize("text", ["a photo of a t-shirt", "a photo of a t - shirt", "T-shirts"])
def test_a_t_shirt_is_not_a_shirt(text: str) -> None:
    assert class_in(text) == "t-shirt"


def test_parts_of_words_do_not_count() -> None:
    assert class_in("a handbag and some bootlaces") is None
