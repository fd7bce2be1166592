"""Average precision agrees with its definition, computed slowly and independently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.errors import DataError
from fourm.evaluate.detections import DetectionScore
from tests.average_precision import average_precision, box_overlap, mask_overlap

SIZE = 48
One = dict[str, Tensor]


def instances(rng: np.random.Generator, count: int) -> One:
    """Random rectangles with a corner cut out of each mask, so that boxes and masks overlap differently."""
    left, top = rng.integers(0, 30, (2, count))
    right, bottom = left + rng.integers(6, 18, count), top + rng.integers(6, 18, count)
    masks = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for mask, x1, y1, x2, y2 in zip(masks, left, top, right, bottom):
        mask[y1:y2, x1:x2] = True
        mask[y1 : y1 + 4, x1 : x1 + 4] = False
    boxes = torch.tensor(np.stack([left, top, right, bottom], 1), dtype=torch.float32)
    return {"boxes": boxes, "labels": torch.tensor(rng.integers(1, 4, count)), "masks": masks}


def scene(rng: np.random.Generator, crowds: bool) -> tuple[One, One]:
    """What is there, and what was found: some of it, moved a little, some mistaken, some made up."""
    truth = instances(rng, int(rng.integers(0, 5)))
    count = len(truth["labels"])
    truth["iscrowd"] = torch.tensor(rng.random(count) < (0.3 if crowds else 0)).long()
    truth["area"] = truth["masks"].sum((1, 2)).float()
    dx, dy = (int(n) for n in rng.integers(-3, 4, 2))
    moved = {
        "boxes": (truth["boxes"] + torch.tensor([dx, dy, dx, dy])).clamp(0, SIZE),
        "labels": torch.where(torch.tensor(rng.random(count) < 0.2), 1, truth["labels"]),
        "masks": torch.roll(truth["masks"], (dy, dx), (1, 2)),
    }
    more = instances(rng, int(rng.integers(0, 4)))
    found = {name: torch.cat([moved[name], moved[name][:1], more[name]]) for name in moved}
    found["scores"] = torch.tensor(rng.permutation(len(found["labels"])) / 10 + rng.random() / 100).float()
    return truth, found


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_boxes_and_masks_agree_with_the_definition(seed: int, crowds: bool) -> None:
    rng = np.random.default_rng(seed)
    pairs = [scene(rng, crowds) for _ in range(12)]
    truth, found = [one for one, _ in pairs], [other for _, other in pairs]
    score = DetectionScore(["a", "b", "c"])
    score.add(found[:5], truth[:5])
    score.add(found[5:], truth[5:])
    values = score.values()
    assert 0.02 < values["box_ap"] < 0.98
    assert values["box_ap"] == pytest.approx(average_precision(found, truth, box_overlap), abs=1e-4)
    assert values["mask_ap"] == pytest.approx(average_precision(found, truth, mask_overlap), abs=1e-4)
    assert values["box_ap50"] == pytest.approx(average_precision(found, truth, box_overlap, [0.5]), abs=1e-4)
    assert values["mask_ap75"] == pytest.approx(average_precision(found, truth, mask_overlap, [0.75]), abs=1e-4)


def one(*boxes: list[float], **more: Any) -> One:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.ones(len(boxes), dtype=torch.int64), **more}


def test_everything_found_is_one_and_nothing_found_is_zero() -> None:
    for found, expected in ((one([0.0, 0, 10, 10], scores=torch.ones(1)), 1.0), (one(scores=torch.ones(0)), 0.0)):
        score = DetectionScore(["a"], masks=False)
        score.add([found], [one([0.0, 0, 10, 10])])
        assert score.values()["box_ap"] == pytest.approx(expected)


def test_a_box_that_overlaps_by_two_thirds_counts_up_to_there() -> None:
    score = DetectionScore(["a"], masks=False)
    score.add([one([0.0, 0, 10, 10], scores=torch.ones(1))], [one([0.0, 0, 10, 15])])
    values = score.values()
    assert values["box_ap"] == pytest.approx(0.4)  # .50, .55, .60, .65 of ten thresholds
    assert (values["box_ap50"], values["box_ap75"]) == pytest.approx((1, 0))


def test_classes_have_values_of_their_own() -> None:
    score = DetectionScore(["cat", "dog"], masks=False)
    truth = one([0.0, 0, 10, 10], [20.0, 20, 40, 40]) | {"labels": torch.tensor([1, 2])}
    score.add([one([0.0, 0, 10, 10], scores=torch.ones(1))], [truth])
    values = score.values(by_class=True)
    assert (values["box_ap/cat"], values["box_ap/dog"]) == pytest.approx((1, 0))


def test_sizes_that_do_not_occur_have_no_value() -> None:
    score = DetectionScore(["a"], masks=False)
    score.add([one([0.0, 0, 10, 10], scores=torch.ones(1))], [one([0.0, 0, 10, 10])])
    assert "box_ap_small" in score.values()
    assert "box_ap_large" not in score.values()


def test_without_anything_to_find_there_is_no_value() -> None:
    score = DetectionScore(["a"], masks=False)
    with pytest.raises(DataError, match="0 images"):
        score.values()
    score.add([one([0.0, 0, 10, 10], scores=torch.ones(1))], [one()])
    with pytest.raises(DataError, match="nothing to measure average precision on: 1 images"):
        score.values()
