"""Whether clothes are painted where they are asked for is measured against others of their class."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.prepare.documents.pictures import drawn_box


@pytest.fixture
def places(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("emu2_places")


def test_overlap_is_intersection_over_union(places: Any) -> None:
    left, right, all_of_it = (0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0), (0.0, 0.0, 1.0, 1.0)

    assert places.overlap(left, left) == 1
    assert places.overlap(left, right) == pytest.approx(1 / 3)
    assert places.overlap(left, all_of_it) == pytest.approx(0.5)
    assert places.overlap(left, (0.5, 0.0, 1.0, 1.0)) == 0
    assert places.overlap(left, None) == 0


def test_what_is_painted_is_compared_with_the_places_of_others_of_its_class(places: Any) -> None:
    narrow, wide = (0.25, 0.0, 0.75, 1.0), (0.0, 0.0, 1.0, 1.0)

    found = places.scores(["coat", "coat", "bag"], [narrow, wide, wide], [narrow, wide, None])

    assert found["asked"] == pytest.approx(2 / 3)
    assert found["others of the class"] == pytest.approx(0.5)


def test_places_and_captions_are_read_from_documents(places: Any, tmp_path: Path) -> None:
    (tmp_path / "box.png").write_bytes(drawn_box((0.25, 0.0, 0.5, 1.0), 28))
    shown = [{"image": "box.png", "asked": False}, {"text": " on black", "asked": False}, {"image": "photo.png"}]
    line = {"parts": [{"text": "a grey t-shirt", "asked": False}, *shown]}
    (tmp_path / "boxes.jsonl").write_text((json.dumps(line) + "\n") * 3)

    assert (
        places.documents(tmp_path / "boxes.jsonl", 2)
        == [("a grey t-shirt on black", "t-shirt", (0.25, 0.0, 0.5, 1.0), "photo.png")] * 2
    )


def test_a_painted_piece_is_what_is_bright(places: Any) -> None:
    images = torch.full((2, 1, 8, 8), 0.1)
    images[0, 0, 2:6, 4:] = 0.9

    assert places.boxes_of(images) == [(0.5, 0.25, 1.0, 0.75), None]
