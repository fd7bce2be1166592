"""The stages of a cascade, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fourm.transfer.cascade import CascadeRoIHeads, Stage, match

TRUTH = [torch.tensor([[0.0, 0.0, 10.0, 10.0]])]
LABELS = [torch.tensor([1])]
SIZES = [(40, 40)]
BETA = 1 / 9  # below which torchvision's smooth L1 is a square


class Fixed(nn.Module):
    """A predictor that says the same of every box."""

    def __init__(self, probabilities: list[float], correction: list[float]) -> None:
        super().__init__()
        self.logits, self.correction = torch.tensor(probabilities).log(), torch.tensor(correction)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(x), -1), self.correction.expand(len(x), -1)


class Pool(nn.Module):
    """Features of boxes without looking at anything."""

    def forward(self, features: Any, boxes: list[Tensor], sizes: Any) -> Tensor:
        return torch.zeros(sum(map(len, boxes)), 1)


def stage(
    probabilities: list[float], correction: list[float], iou: float = 0.5, weight: float = 1, box_weight: float = 10
) -> Stage:
    return Stage(nn.Identity(), Fixed(probabilities, correction), iou, weight, box_weight)


def heads(*stages: Stage, score_threshold: float = 0.0) -> CascadeRoIHeads:
    return CascadeRoIHeads(
        Pool(), stages, box_samples=16, box_positives=1.0, score_threshold=score_threshold, nms_iou=0.5,
        max_detections=10,
    )  # fmt: skip


# ------------------------------------------------------------ matching


@pytest.mark.parametrize(("iou", "expected"), [(0.5, [1, 1, 1, 0]), (0.6, [1, 1, 0, 0]), (0.7, [1, 0, 0, 0])])
def test_a_box_is_an_example_if_it_overlaps_enough(iou: float, expected: list[int]) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6.5], [0, 0, 10, 5.5], [0, 0, 10, 4.5]])  # IoU 1, .65, .55, .45
    assert match([boxes], TRUTH, LABELS, iou).labels[0].tolist() == expected


def test_a_box_belongs_to_what_it_overlaps_most() -> None:
    truth = [torch.tensor([[0.0, 0, 10, 10], [5.0, 0, 15, 10]])]
    found = match([torch.tensor([[4.0, 0, 14, 10], [1.0, 0, 11, 10]])], truth, [torch.tensor([1, 2])], 0.5)
    assert found.matched[0].tolist() == [1, 0]
    assert found.labels[0].tolist() == [2, 1]


def test_without_anything_in_the_image_all_boxes_are_background() -> None:
    found = match([torch.rand(3, 4)], [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 0.5)
    assert found.labels[0].tolist() == [0, 0, 0]


# ------------------------------------------------------------ losses


def test_the_losses_of_three_stages() -> None:
    """The proposal overlaps the truth by .55: an example of the class for the first stage, background for the others.

    The truth itself is a proposal too. Every stage gives the background 1/4, the class 1/2, and corrects nothing.
    """
    said = [0.25, 0.5, 0.25]
    zero = [0.0] * 4
    cascade = heads(
        stage(said, zero, 0.5, 1.0, 10), stage(said, zero, 0.6, 0.5, 20), stage(said, zero, 0.7, 0.25, 30)
    ).train()
    targets = [{"boxes": TRUTH[0], "labels": LABELS[0]}]
    _, losses = cascade({}, [torch.tensor([[0.0, 0.0, 10.0, 5.5]])], SIZES, targets)
    half, quarter = math.log(2), math.log(4)
    assert losses["loss_classifier_0"].item() == pytest.approx(half)
    assert losses["loss_classifier_1"].item() == pytest.approx(0.5 * (half + quarter) / 2)
    assert losses["loss_classifier_2"].item() == pytest.approx(0.25 * (half + quarter) / 2)
    centre, height = 10 * (5 - 2.75) / 5.5, 5 * math.log(10 / 5.5)
    assert losses["loss_box_reg_0"].item() == pytest.approx((centre + height - BETA) / 2)  # over both boxes
    assert losses["loss_box_reg_1"].item() == losses["loss_box_reg_2"].item() == 0


def test_the_second_stage_is_trained_on_what_the_first_one_corrected() -> None:
    """The first stage moves every box right by a tenth of its width: the truth leaves itself by one pixel."""
    said = [0.25, 0.5, 0.25]
    cascade = heads(stage(said, [1.0, 0, 0, 0]), stage(said, [0.0] * 4, 0.6, 0.5, 20)).train()
    _, losses = cascade({}, [torch.zeros(0, 4)], SIZES, [{"boxes": TRUTH[0], "labels": LABELS[0]}])
    # Moved back: -1 pixel of 10, 20 times.
    assert losses["loss_box_reg_1"].item() == pytest.approx(0.5 * (2 - BETA / 2))
    assert losses["loss_classifier_1"].item() == pytest.approx(0.5 * math.log(2))


def test_an_image_without_instances_teaches_the_background_alone() -> None:
    cascade = heads(stage([0.25, 0.5, 0.25], [1.0, 0, 0, 0])).train()
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    _, losses = cascade({}, [torch.tensor([[0.0, 0.0, 10.0, 5.5]])], SIZES, nothing)
    assert losses["loss_classifier_0"].item() == pytest.approx(math.log(4))
    assert losses["loss_box_reg_0"].item() == 0


def test_corrected_boxes_carry_no_gradient() -> None:
    corrections = torch.ones(1, 4, requires_grad=True)
    assert not stage([0.5, 0.5], [0.0] * 4).refine(TRUTH, corrections, SIZES)[0].requires_grad


# ------------------------------------------------------------ inference


def test_scores_are_averaged_over_the_stages_and_boxes_corrected_by_each() -> None:
    move = [1.0, 0.0, 0.0, 0.0]
    cascade = heads(
        stage([0.1, 0.8, 0.1], move, box_weight=10),
        stage([0.4, 0.2, 0.4], move, box_weight=20),
        stage([0.2, 0.5, 0.3], move, box_weight=30),
    ).eval()
    found, losses = cascade({}, [TRUTH[0] + 5], SIZES)
    assert losses == {}
    scores = dict(zip(found[0]["labels"].tolist(), found[0]["scores"].tolist()))
    assert scores == pytest.approx({1: 0.5, 2: 0.8 / 3})
    right = 5 + 1 + 0.5 + 1 / 3
    assert found[0]["boxes"][0].tolist() == pytest.approx([right, 5, right + 10, 15])


def test_boxes_stay_within_the_image() -> None:
    moved = stage([0.5, 0.5], [0.0] * 4).refine([TRUTH[0] + 32], torch.tensor([[10.0, 0, 0, 0]]), SIZES)
    assert moved[0].tolist() == [[40, 32, 40, 40]]


def test_low_scores_are_dropped() -> None:
    found, _ = heads(stage([0.9, 0.06, 0.04], [0.0] * 4), score_threshold=0.05).eval()({}, TRUTH, SIZES)
    assert found[0]["labels"].tolist() == [1]
