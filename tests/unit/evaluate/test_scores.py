from __future__ import annotations

import pytest
import torch

from fourm.evaluate import metrics
from fourm.evaluate.scores import (
    CodeUsage,
    ExplainedScore,
    IoUScore,
    MeanScore,
    NameScore,
    PsnrScore,
    RatioScore,
    Score,
)

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 7, 1, 4, 4, generator=GENERATOR) + 0.1
LABELS, TRUTH = torch.randint(0, 3, (2, 7, 4, 4), generator=GENERATOR)


@pytest.mark.parametrize(
    ("score", "a", "b", "expected"),
    [
        (MeanScore(metrics.abs_rel), A, B, float(metrics.abs_rel(A, B).mean())),
        (IoUScore(3), LABELS, TRUTH, metrics.mean_iou(metrics.confusion(LABELS, TRUTH, 3))),
        (PsnrScore(), A, B, metrics.psnr(A, B)),
        (RatioScore(lambda x: x.flatten(1).sum(1)), A, B, float(A.sum() / B.sum())),
        (ExplainedScore(), A, B, 1 - float((A - B).square().mean() / B.var(unbiased=False))),
    ],
)
def test_uneven_batches_give_the_metric_of_the_whole(
    score: Score, a: torch.Tensor, b: torch.Tensor, expected: float
) -> None:
    for rows in torch.arange(7).split(3):
        score.add(a[rows], b[rows])
    assert score.value() == pytest.approx(expected)


def test_names_are_counted_over_batches() -> None:
    score = NameScore()
    score.add([{"bed"}], [{"bed", "rug"}])
    score.add([{"sofa"}], [{"desk"}])
    assert score.value() == pytest.approx(2 * 1 / (2 + 3))


def test_the_mean_vector_explains_nothing_and_the_vectors_themselves_all() -> None:
    truth = torch.tensor([[1.0, 10.0], [3.0, 10.0]])[:, :, None, None]
    for predicted, expected in ((truth.mean(0, keepdim=True).expand(2, -1, -1, -1), 0.0), (truth, 1.0)):
        score = ExplainedScore()
        score.add(predicted, truth)
        assert score.value() == pytest.approx(expected)


def test_the_explained_share_of_vectors_that_are_all_the_same_is_not_a_number() -> None:
    score = ExplainedScore()
    score.add(torch.zeros(3, 2, 1, 1), torch.full((3, 2, 1, 1), 0.1))
    assert score.value() != score.value()


def test_a_ratio_to_nothing_is_not_a_number() -> None:
    score = RatioScore(lambda x: x.flatten(1).sum(1))
    score.add(A, torch.zeros_like(B))
    assert score.value() != score.value()


def test_codes_are_counted_over_batches() -> None:
    usage = CodeUsage(8)
    usage.add(torch.tensor([[[0, 1], [0, 1]]]))
    usage.add(torch.tensor([[[2, 2], [3, 3]]]))
    assert usage.num_tokens == 8
    assert usage.values() == {"codes_used": 0.5, "perplexity": pytest.approx(4)}
