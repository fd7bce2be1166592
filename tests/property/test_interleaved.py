"""Packing documents of text and images: nothing is invented, lost, cut in two or asked by mistake."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_packing import Packer, Picture, Piece, Words
from fourm.data.interleaved_parts import Image, Part, Text
from tests.interleaved import Letters

IMAGE_TOKENS = 3
AROUND = {"bos": "<s>", "eos": "</s>", "image_begin": "[IMG]", "image_end": "[/IMG]"}

words = st.lists(st.sampled_from(["a", "bed", "and", "door"]), min_size=0, max_size=6).map(" ".join)
texts = st.builds(Text, words, st.booleans())
images = st.builds(Image, st.sampled_from("xyz"), st.booleans(), st.booleans(), st.sampled_from([None, 0.1, 0.9]))
documents = st.lists(st.one_of(texts, images), max_size=8)
seeds = st.integers(0, 2**32 - 1)


def packed(parts: list[Part], seed: int, **rules: object) -> list[Piece]:
    config = InterleavedConfig(**rules)  # type: ignore[arg-type]
    return Packer(config, Letters(), IMAGE_TOKENS).pack(parts, np.random.default_rng(seed), config.num_tokens) or []


def flat(pieces: list[Piece]) -> list[tuple[object, bool]]:
    """Every token and image with whether it is asked."""
    found: list[tuple[object, bool]] = []
    for piece in pieces:
        if isinstance(piece, Words):
            found += [(int(id), piece.asked) for id in piece.ids]
        else:
            found += flat(list(piece.before)) + [(piece.image.name, piece.image.asked)] + flat(list(piece.after))
    return found


def expected(parts: list[Part]) -> list[tuple[object, bool]]:
    """What a document holds, where nothing moves and nothing is added, token by token."""
    vocabulary = Letters()
    found: list[tuple[object, bool]] = []
    for part in parts:
        if isinstance(part, Image):
            found.append((part.name, part.asked))
        else:
            assert isinstance(part.text, str)
            found += [(int(id), part.asked) for id in vocabulary.encode(part.text)]
    return found


@given(documents, seeds)
def test_without_rules_a_document_is_what_it_holds(parts: list[Part], seed: int) -> None:
    assert flat(packed(parts, seed)) == expected(parts)


@given(documents, seeds, st.floats(0, 1))
def test_moving_images_loses_and_invents_nothing(parts: list[Part], seed: int, image_first: float) -> None:
    found = flat(packed(parts, seed, image_first=image_first))
    assert sorted(map(repr, found)) == sorted(map(repr, expected(parts)))
    only_words = [token for token, _ in found if isinstance(token, int)]
    assert only_words == [token for token, _ in expected(parts) if isinstance(token, int)]


@given(documents, seeds, st.integers(1, 30))
def test_what_does_not_fit_is_the_end(parts: list[Part], seed: int, num_tokens: int) -> None:
    pieces = packed(parts, seed, num_tokens=num_tokens, **AROUND)
    assert sum(piece.num_tokens for piece in pieces) <= num_tokens
    whole = flat(packed(parts, seed, num_tokens=1000, **AROUND))
    assert flat(pieces) == whole[: len(flat(pieces))]
    lengths = [piece.num_tokens for piece in packed(parts, seed, num_tokens=1000, **AROUND)]
    if sum(lengths) <= num_tokens:
        assert flat(pieces) == whole


@given(documents, seeds, st.integers(1, 30))
def test_a_picture_has_its_tokens_and_the_others_count_one(parts: list[Part], seed: int, num_tokens: int) -> None:
    for piece in packed(parts, seed, num_tokens=num_tokens, **AROUND):
        if isinstance(piece, Picture):
            assert piece.num_tokens == 1 + IMAGE_TOKENS + 1
            assert [len(w.ids) for w in (*piece.before, *piece.after)] == [1, 1]
        else:
            assert piece.num_tokens == len(piece.ids) > 0


@given(documents, seeds, st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_images_are_as_many_as_the_rules_say(
    parts: list[Part], seed: int, fewest: int, more: int, trailing: bool
) -> None:
    rules = {"min_images": fewest, "max_images": fewest + more, "min_similarity": 0.5, "drop_trailing_image": trailing}
    pieces = packed(parts, seed, **rules)
    good = [p for p in parts if isinstance(p, Image) and (p.similarity is None or p.similarity >= 0.5)]
    last = max((n for n, p in enumerate(parts) if isinstance(p, Text) and p.text), default=-1)
    kept = [n for n, p in enumerate(parts) if p in good and isinstance(p, Image)][: fewest + more]
    count = sum(n < last for n in kept) if trailing else len(kept)
    shown = [p for p in pieces if isinstance(p, Picture)]
    if count < fewest:
        assert not pieces
    elif pieces:
        assert len(shown) == count
        if trailing and shown:
            assert isinstance(pieces[-1], Words)


@given(documents, seeds, st.sampled_from(["answers", "all", "text", "last_image", "none"]), st.booleans())
def test_asked_are_those_that_brute_force_counts(parts: list[Part], seed: int, loss_on: str, both: bool) -> None:
    rules = {**AROUND, "loss_on": loss_on, "ask_image_tokens": "both" if both else "none"}
    found = flat(packed(parts, seed, **rules))
    shown = [p for p in parts if isinstance(p, Image)]
    images_asked = {
        "answers": sum(p.asked for p in shown),
        "all": len(shown),
        "text": 0,
        "last_image": min(len(shown), 1),
        "none": 0,
    }[loss_on]
    content = [p for p in parts if isinstance(p, Image) or p.text]
    if not content:
        assert not found
        return
    words_asked = sum(
        len(p.text.split())
        for p in parts
        if isinstance(p, Text) and isinstance(p.text, str) and (p.asked or loss_on != "answers")
    )
    last = content[-1]
    end = isinstance(last, Image) or last.asked or loss_on != "answers"
    speaks = loss_on in ("answers", "all", "text")
    assert sum(asked for token, asked in found if isinstance(token, str)) == images_asked
    around = 2 * images_asked if both and loss_on in ("answers", "all") else 0
    assert sum(asked for token, asked in found if isinstance(token, int)) == (words_asked + end) * speaks + around


@given(documents, seeds, st.integers(4, 12))
def test_a_random_stretch_is_a_run_of_tokens_and_whole_images(parts: list[Part], seed: int, num_tokens: int) -> None:
    pieces = packed(parts, seed, num_tokens=num_tokens, window="random")
    assert sum(piece.num_tokens for piece in pieces) <= num_tokens
    whole = flat(packed(parts, seed, num_tokens=1000))
    found = flat(pieces)
    assert any(whole[start : start + len(found)] == found for start in range(len(whole) + 1)) or _around_a_cut(
        whole, found
    )


def _around_a_cut(whole: list[tuple[object, bool]], found: list[tuple[object, bool]]) -> bool:
    """Whether it is a run without an image at its beginning, of which a part lay outside."""
    return any(
        isinstance(whole[start][0], str) and whole[start + 1 : start + 1 + len(found)] == found
        for start in range(len(whole))
    )


@given(documents, seeds, st.integers(1, 30), st.sampled_from(["first", "random"]))
def test_no_draw_is_longer_than_the_length_that_is_kept(
    parts: list[Part], seed: int, num_tokens: int, window: str
) -> None:
    rules = {"num_tokens": num_tokens, "window": window, **AROUND}
    config = InterleavedConfig(**rules)  # type: ignore[arg-type]
    longest = Packer(config, Letters(), IMAGE_TOKENS).longest(parts)
    assert sum(piece.num_tokens for piece in packed(parts, seed, **rules)) <= longest <= num_tokens
