from __future__ import annotations

import torch

from fourm import catalog
from fourm.evaluate.fashion_pictures import caption_to_image, first_of_each_class


def test_classes_take_turns() -> None:
    assert first_of_each_class([3, 3, 1, 0, 1], 4) == [3, 2, 0, 4]


def test_one_row_per_class_whatever_their_sizes() -> None:
    raw = {"image": catalog.get("image@28")}
    table = caption_to_image(raw, ["a coat", "the coat", "a bag"], [4, 4, 8], torch.rand(3, 1, 28, 28))
    assert [row[0] for row in table.cells] == ["a coat", "a bag"]
    assert [len(row) for row in table.cells] == [3, 2]
    assert table.columns == ["caption", "image 1", "image 2"]
