"""Values with structure become the ids of the published text tokenizer, whose file FOURM_TEXT_TOKENIZER names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fourm.tokenizers.structured import KINDS
from fourm.tokenizers.text import TextTokenizer

FILE = os.environ.get("FOURM_TEXT_TOKENIZER", "")
pytestmark = pytest.mark.skipif(not Path(FILE).is_file(), reason="FOURM_TEXT_TOKENIZER names no file")

POSE = {"bbox": (1 / 999, 2 / 999, 3 / 999, 4 / 999), "pose_tokens": [5, 518, 0, 0, 0, 0, 0, 0]}
INSTANCE = {"box": (3 / 224, 4 / 224, 5 / 224, 6 / 224), "token_ids": [0] * 16}
GOLDEN: list[tuple[str, Any, list[int]]] = [
    ("boxes", [{"boxes": (0, 1, 5 / 999, 7 / 999), "class_name": "traffic light"}], [204, 2203, 2209, 3211, 4276]),
    ("metadata", {"entropy": 5.2}, [1217, 229]),
    ("poses", [], [18109]),
    ("poses", [POSE], [6304, 205, 1206, 2207, 3208, 8620, 209, 1210, *[204] * 6]),
    ("sam", [{"point": (2 / 224, 1 / 224), "instances": []}], [6712, 205, 1206, 18109]),
    (
        "sam",
        [{"point": (2 / 224, 1 / 224), "instances": [INSTANCE]}],
        [6712, 205, 1206, 14445, 207, 1208, 2209, 3210, *[204] * 16],
    ),
    ("palette", [(10, 20, 30)], [1205, 214, 224, 234]),
]


@pytest.fixture(scope="module")
def published() -> TextTokenizer:
    return TextTokenizer.load(FILE)


@pytest.mark.parametrize(("kind", "value", "ids"), GOLDEN)
def test_values_have_the_published_ids(kind: str, value: Any, ids: list[int], published: TextTokenizer) -> None:
    text = KINDS[kind].to_text(value, published.num_coordinates, None)
    assert published.encode(text if isinstance(text, str) else " ".join(text)).tolist() == ids


@pytest.mark.parametrize(
    ("kind", "ids"), [(kind, ids) for kind, _, ids in GOLDEN if kind in ("poses", "palette", "sam")]
)
def test_published_ids_are_read_and_written_alike(kind: str, ids: list[int], published: TextTokenizer) -> None:
    value = KINDS[kind].from_text(published.decode(ids), published.num_coordinates, ())
    assert published.encode(str(KINDS[kind].to_text(value, published.num_coordinates, None))).tolist() == ids
