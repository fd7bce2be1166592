from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from fourm import catalog
from fourm.evaluate.room_pictures import caption_to_all, rgb_to_all

RAW = {key: catalog.get(f"{key}@64") for key in ("rgb", "depth", "semseg")}
TRUTH: dict[str, Any] = {
    "rgb": torch.rand(2, 3, 64, 64),
    "depth": torch.rand(2, 1, 64, 64) + 1,
    "semseg": torch.zeros(2, 64, 64, dtype=torch.int64),
    "caption": [["a bed", "one bed"], ["a rug"]],
    "det": [[{"boxes": [0.1, 0.1, 0.5, 0.5], "class_name": "bed"}], []],
}


def test_answers_stand_beside_their_truth() -> None:
    answers = {"depth": TRUTH["depth"], "caption": ["a sofa", ""], "det": ["v0=1 v1=2 v2=9 v3=9 bed", "nonsense"]}
    table = rgb_to_all(RAW, TRUTH, answers, num_bins=20)
    assert table.columns == [
        "RGB (given)", "depth", "true depth", "caption", "true caption", "boxes", "true boxes",
    ]  # fmt: skip
    assert table.cells[0][3:5] == ["a sofa", "a bed"]
    assert table.cells[1][3] == "(nothing)"
    assert all(isinstance(row[5], Image.Image) for row in table.cells)


def test_a_caption_stands_before_what_was_made_of_it() -> None:
    table = caption_to_all(RAW, TRUTH, {"semseg": TRUTH["semseg"], "rgb": TRUTH["rgb"]})
    assert table.columns == ["caption (given)", "RGB", "segmentation", "the room it describes"]
    assert [row[0] for row in table.cells] == ["a bed", "a rug"]
