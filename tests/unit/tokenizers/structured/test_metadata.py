"""Facts about an image as text: the published types, bins and ranges (4M-21)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fourm.errors import DataError
from fourm.tokenizers.structured.metadata import FIELDS, chunks_to_metadata, metadata_to_chunks

NAMES = [
    *("original_width", "original_height", "caption_n_chars", "caption_n_words", "caption_n_sentences", "n_humans"),
    *("n_sam_instances", "n_coco_instances", "coco_instance_diversity", "colorfulness", "brightness", "contrast"),
    *("saturation", "entropy", "walkability", "objectness", "semantic_diversity", "geometric_complexity"),
    *("occlusion_score", "watermark_score", "aesthetic_score"),
]
HIGHEST = {
    "colorfulness": 150, "brightness": 255, "contrast": 127, "saturation": 255, "entropy": 10, "walkability": 1,
    "objectness": 1, "geometric_complexity": 0.75, "occlusion_score": 0.25,
}  # fmt: skip


def number(name: str, value: float) -> int:
    (chunk,) = metadata_to_chunks({name: value})
    kind, _, found = chunk.partition(" v0=")
    assert kind == f"v1={NAMES.index(name)}"
    return int(found)


def test_the_types_are_the_published_ones_in_their_order() -> None:
    assert list(FIELDS) == NAMES
    assert len(NAMES) == 21


def test_the_published_example() -> None:
    assert metadata_to_chunks({"entropy": 5.2}) == ["v1=13 v0=25"]


@pytest.mark.parametrize(("pixels", "expected"), [(0, 0), (31, 0), (32, 1), (640, 20), (10**6, 999)])
@pytest.mark.parametrize("name", ["original_width", "original_height"])
def test_sizes_are_counted_in_steps_of_32_pixels(name: str, pixels: int, expected: int) -> None:
    assert number(name, pixels) == expected


@pytest.mark.parametrize(("count", "expected"), [(-3, 0), (0, 0), (7, 7), (999, 999), (5000, 999)])
@pytest.mark.parametrize(
    "name",
    [
        *("caption_n_chars", "caption_n_words", "caption_n_sentences", "n_humans", "n_sam_instances"),
        *("n_coco_instances", "coco_instance_diversity", "semantic_diversity"),
    ],
)
def test_counts_stand_for_themselves(name: str, count: int, expected: int) -> None:
    assert number(name, count) == expected


@pytest.mark.parametrize(("name", "high"), HIGHEST.items())
def test_scores_have_fifty_bins_over_their_range(name: str, high: float) -> None:
    assert [number(name, share * high) for share in (-0.5, 0.0, 0.5, 0.999, 1.0, 1.5)] == [0, 0, 24, 48, 49, 49]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("watermark_score", 0.49, 0),
        ("watermark_score", 0.5, 1),
        ("aesthetic_score", 4.49, 0),
        ("aesthetic_score", 4.5, 1),
        ("aesthetic_score", 5.49, 1),
        ("aesthetic_score", 5.5, 2),
    ],
)
def test_some_scores_have_bins_of_their_own(name: str, value: float, expected: int) -> None:
    assert number(name, value) == expected


def test_reading_scores_is_in_fiftieths_of_the_range_as_published() -> None:
    assert chunks_to_metadata("v1=13 v0=25 v1=9 v0=49 v1=18 v0=1") == {
        "colorfulness": 150 * 49 / 50,
        "entropy": 5.0,
        "occlusion_score": 0.25 / 50,
    }


def test_sizes_counts_and_own_bins_are_read_as_values_of_the_same_bin() -> None:
    text = "v1=20 v0=0 v1=0 v0=20 v1=5 v0=3 v1=19 v0=1"
    facts = chunks_to_metadata(text)
    assert facts == {"original_width": 640, "n_humans": 3, "watermark_score": 1.0, "aesthetic_score": 4.0}
    assert sorted(metadata_to_chunks(facts)) == sorted(["v1=20 v0=0", "v1=0 v0=20", "v1=5 v0=3", "v1=19 v0=1"])


def test_chunks_come_in_the_order_of_the_types_or_shuffled() -> None:
    facts = dict.fromkeys(reversed(NAMES), 1)
    plain = metadata_to_chunks(facts)
    shuffled = metadata_to_chunks(facts, rng=np.random.default_rng(0))
    assert [chunk.split()[0] for chunk in plain] == [f"v1={kind}" for kind in range(21)]
    assert shuffled != plain
    assert sorted(shuffled) == sorted(plain)
    assert metadata_to_chunks(facts, rng=np.random.default_rng(0)) == shuffled


def test_fields_may_be_missing() -> None:
    assert metadata_to_chunks({}) == []
    assert chunks_to_metadata([]) == {}


def test_counts_end_with_the_numbers_of_the_tokenizer() -> None:
    assert metadata_to_chunks({"n_humans": 700, "entropy": 10}, num_bins=64) == ["v1=5 v0=63", "v1=13 v0=49"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"entrpy": 1.0}, r"holds 'entrpy'.*Did you mean 'entropy'"),
        ({"entropy": float("nan")}, "entropy is nan; expected a finite number"),
        ({"entropy": "high"}, "entropy is 'high'"),
        ({"entropy": None}, "entropy is None.*Leave out what is not known"),
        (["entropy"], "metadata is list; expected names and numbers"),
    ],
)
def test_other_facts_are_refused(facts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metadata_to_chunks(facts)


@pytest.mark.parametrize(
    "text",
    [
        "v1=21 v0=3",  # no such type
        "v1=13 v0=50",  # beyond the bins of a score
        "v1=19 v0=2",
        "v1=20 v0=3",
        "v1=5 v0=1000",
        "v1=13",
        "v0=25 v1=13",
        "v1=13 red v0=25",
    ],
)
def test_what_is_not_a_fact_is_passed_over(text: str) -> None:
    assert chunks_to_metadata(text) == {}


def test_facts_are_found_among_other_words_and_the_last_of_two_counts() -> None:
    assert chunks_to_metadata("a v1=5 v1=5 v0=2 bed v0=7 v1=6 v0=1 v1=5 v0=4") == {"n_humans": 4, "n_sam_instances": 1}
