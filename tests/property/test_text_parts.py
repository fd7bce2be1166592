"""A text that is encoded in parts has the ids of the whole, whatever the tokenizer makes of spaces."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from fourm.tokenizers.text import TextTokenizer
from tests import language_vocabularies

vocabulary = cache(language_vocabularies.vocabulary)
PARTS = st.lists(
    st.sampled_from(["a", "bed", " ", "  ", ":", "red 3", " no", "yes ", "</s>", "[USER] ", "\n", ""]), max_size=6
)


def joined(words: TextTokenizer, parts: list[str]) -> list[list[int]]:
    """The ids of every part."""
    return [ids.tolist() for ids in words.encode_parts(parts)]


@given(st.sampled_from(language_vocabularies.KINDS), PARTS)
def test_parts_have_the_ids_of_the_whole(kind: str, parts: list[str]) -> None:
    words = vocabulary(kind)
    found = joined(words, parts)
    assert len(found) == len(parts)
    assert [id for part in found for id in part] == words.encode("".join(parts)).tolist()


@given(st.sampled_from(language_vocabularies.KINDS), st.sampled_from(["red", "3", "a bed"]), st.booleans())
def test_a_space_between_two_parts_belongs_to_the_second(kind: str, answer: str, early: bool) -> None:
    words = vocabulary(kind)
    said, asked = ("answer: ", answer) if early else ("answer:", f" {answer}")
    assert joined(words, [said, asked])[0] == words.encode("answer:").tolist()


@given(st.sampled_from(language_vocabularies.KINDS))
def test_a_space_at_the_very_end_stays(kind: str) -> None:
    words = vocabulary(kind)
    assert [len(ids) for ids in joined(words, ["a", "bed "])] == [
        len(words.encode("a")),
        len(words.encode("abed ")) - len(words.encode("a")),
    ]
