"""Metrics of the tasks agree with independent computations, in any number of parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.evaluate.knn import knn_scores
from fourm.evaluate.tasks import ClassificationScore, DepthScore, NormalsScore, SegmentationScore


def measured(score: Any, answer: Tensor, target: Tensor) -> dict[str, float]:
    for part in (slice(0, 3), slice(3, None)):
        score.add(answer[part], target[part])
    return score.result()  # type: ignore[no-any-return]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_top_k_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy

    scores, target = draw(40, 8), torch.arange(40) % 8

    found = measured(ClassificationScore(8), scores, target)

    for k in (1, 5):
        expected = multiclass_accuracy(scores, target, 8, top_k=k, average="micro")
        assert found[f"top{k}"] == pytest.approx(float(expected))


def test_mean_iou_is_that_of_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    scores, target = draw(5, 4, 6, 6), torch.randint(-1, 4, (5, 6, 6), generator=torch.Generator().manual_seed(0))
    expected = MulticlassJaccardIndex(4, average="macro", ignore_index=-1)(scores.argmax(1), target)

    found = measured(SegmentationScore(4), scores, target)

    known = target >= 0
    assert found["miou"] == pytest.approx(float(expected))
    assert found["pixel_accuracy"] == pytest.approx(float((scores.argmax(1) == target)[known].float().mean()))


def test_depth_errors_are_those_of_a_plain_loop() -> None:
    answer, target = draw(4, 1, 5, 5).abs() + 0.5, draw(4, 1, 5, 7)[..., :5].abs() * 3
    target[2] = 0.0  # nothing known in this image

    found = measured(DepthScore(0.1, 4.0), answer, target)

    rows = []
    for d, t in zip(answer.flatten(1).double().tolist(), target.flatten(1).double().tolist()):
        pairs = [(a, b) for a, b in zip(d, t) if 0.1 <= b <= 4.0]
        if pairs:
            rows.append(
                (
                    np.mean([max(a / b, b / a) < 1.25 for a, b in pairs]),
                    np.mean([abs(a - b) / b for a, b in pairs]),
                    math.sqrt(np.mean([(a - b) ** 2 for a, b in pairs])),
                    np.mean([abs(math.log10(a) - math.log10(b)) for a, b in pairs]),
                )
            )
    expected = np.mean(rows, axis=0)
    assert list(found.values()) == pytest.approx(expected.tolist(), rel=1e-5)


def test_angles_of_known_rotations() -> None:
    degrees = torch.tensor([0.0, 10.0, 30.0, 90.0]).deg2rad()
    answer = torch.stack([degrees.sin(), torch.zeros(4), degrees.cos()]).reshape(1, 3, 2, 2).repeat(4, 1, 1, 1)
    target = torch.zeros(4, 3, 2, 2)
    target[:, 2] = 2.0
    target[:, :, 1, 1] = 0.0  # no normal there

    found = measured(NormalsScore(), answer, target)

    assert found["mean_angle"] == pytest.approx((0 + 10 + 30) / 3, abs=1e-4)
    assert found["within_11"] == pytest.approx(2 / 3)


def test_nothing_scored_is_not_a_number() -> None:
    for score in (ClassificationScore(3), SegmentationScore(3), DepthScore(0.1, 1.0), NormalsScore()):
        assert all(math.isnan(value) for value in score.result().values())


def test_neighbours_vote_with_their_similarity() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    features = torch.tensor([[3.0, 0.0], [1.0, 5.0]])

    scores = knn_scores(features, known, torch.tensor([0, 1, 1]), 2, k=2, temperature=0.5)

    near = [math.exp(1 / 0.5), math.exp(math.sqrt(0.5) / 0.5)]
    assert scores[0].tolist() == pytest.approx(near, rel=1e-5)
    assert scores[1, 0] == 0
    assert scores.argmax(1).tolist() == [0, 1]


def test_all_vote_where_there_are_fewer_than_k() -> None:
    assert knn_scores(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), 2, k=20).argmax(1).tolist() == [0, 1]
