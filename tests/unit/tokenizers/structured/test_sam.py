"""Instances at points as text: y before x for points, x before y for boxes (4M-21)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fourm.errors import DataError
from fourm.tokenizers.structured.sam import sam_to_text, text_to_sam

IDS = [0, 511, 512, 1023, *range(12)]
MASK = "v0=0 v0=511 v1=0 v1=511 " + " ".join(f"v0={n}" for n in range(12))


def instance(*pixels: int, ids: list[int] = IDS) -> dict[str, Any]:
    return {"box": tuple(pixel / 224 for pixel in pixels), "token_ids": ids}


def point(x: int, y: int, *instances: dict[str, Any]) -> dict[str, Any]:
    return {"point": (x / 224, y / 224), "instances": list(instances)}


def test_a_point_and_its_instance_as_published() -> None:
    assert sam_to_text([point(2, 1, instance(3, 4, 5, 6))]) == (f"point v0=1 v1=2 polygon v0=3 v1=4 v2=5 v3=6 {MASK}")


def test_a_point_outside_of_all_instances_has_none() -> None:
    assert sam_to_text([point(0, 223)]) == "point v0=223 v1=0 none"
    assert text_to_sam("point v0=223 v1=0 none") == [point(0, 223)]


def test_a_point_may_lie_in_several_instances() -> None:
    points = [point(5, 6, instance(0, 0, 224, 224), instance(1, 2, 3, 4)), point(7, 8)]
    assert text_to_sam(sam_to_text(points)) == points


def test_points_and_instances_are_shuffled_and_stay_together() -> None:
    points = [point(n, n, *(instance(n, k, 9, 9) for k in range(3))) for n in range(5)]
    texts = [sam_to_text(points, rng=np.random.default_rng(seed)) for seed in range(10)]
    assert len(set(texts)) == 10
    for text in texts:
        found = sorted(text_to_sam(text), key=lambda one: one["point"])
        for one in found:
            one["instances"].sort(key=lambda one: one["box"])
        assert found == points


def test_no_points_are_no_text() -> None:
    assert sam_to_text([]) == ""
    assert text_to_sam("") == []


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([point(1, 1, instance(0, 0, 1, 1, ids=[0] * 15))], "token_ids is .*expected 16"),
        ([point(1, 1, instance(0, 0, 1, 1, ids=[1024] * 16))], "from 0 to 1023"),
        ([point(1, 1, instance(0, 0, 1))], "box is"),
        ([point(1, 1, {"box": (0, 0, 1, 1)})], "expected a mapping with box and token_ids"),
        ([{"point": (0.1, None)}], "point is"),
        ([{"instances": []}], "expected a mapping with point"),
        ({"point": (0, 0)}, "expected a list of points"),
    ],
)
def test_what_is_not_a_point_is_refused(points: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sam_to_text(points)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"polygon v0=3 v1=4 v2=5 v3=6 {MASK}", []),  # of no point
        (f"point v0=1 v1=999 polygon v0=3 v1=4 v2=5 v3=6 {MASK}", []),  # outside of the crop
        (f"point v0=1 polygon v0=3 v1=4 v2=5 v3=6 {MASK}", []),
        (f"point v0=1 v1=2 polygon v0=3 v1=4 v2=2 v3=6 {MASK}", [point(2, 1)]),  # right of its right side
        (f"point v0=1 v1=2 polygon v0=3 v1=4 v2=225 v3=6 {MASK}", [point(2, 1)]),
        ("point v0=1 v1=2 polygon v0=3 v1=4 v2=5 v3=6 v0=1", [point(2, 1)]),  # breaks off
        (f"point v0=1 v1=2 polygon v0=3 v1=4 v2=5 v3=6 {MASK[:-5]} v2=1", [point(2, 1)]),
        (f"none point v0=1 v1=2 a none polygon v0=3 v1=4 v2=5 v3=6 {MASK} v0=9", [point(2, 1, instance(3, 4, 5, 6))]),
    ],
)
def test_parser_passes_over_what_is_broken(text: str, expected: list[Any]) -> None:
    assert text_to_sam(text) == expected
