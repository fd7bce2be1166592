"""Fine-tuning's objective: what is shown, mixed, hidden and scored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.objectives.mix import Mix, mix_pairs
from fourm.objectives.supervised import Supervised
from fourm.objectives.supervised_configs import ClassificationConfig, DepthConfig, NormalsConfig, SegmentationConfig
from fourm.objectives.tasks import Classification, Depth, Normals, Segmentation, berhu


def image(name: str, channels: int = 1) -> Modality:
    return Modality(name, Grid(4, 4, 1), Continuous(channels), name, "gray", direction="input", channels=channels)


RGB, DEPTH, NORMAL = image("rgb", 3), image("depth"), image("normal", 3)
TOKENS = Modality("tok", Grid(2, 2, 2), Discrete(5), "tok", "tokens")
SEMSEG = Modality("semseg", Grid(4, 4, 1), Discrete(3), "semseg", "labels", direction="input")
LABEL = Modality("label", Sequence(1), Discrete(4), "label", "label", direction="input")


def classification(**options: Any) -> Supervised:
    return Supervised(Classification(ClassificationConfig(num_classes=4), LABEL), ModalitySet([RGB, DEPTH]), **options)


def samples(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "rgb": rng.random((3, 4, 4), np.float32),
            "depth": rng.random((1, 4, 4), np.float32),
            "label": np.asarray(n % 4),
        }
        for n in range(count)
    ]


def prepared(objective: Supervised, count: int = 6) -> list[Any]:
    return [objective.prepare(s, np.random.default_rng(n)) for n, s in enumerate(samples(count))]


class Fixed(nn.Module):
    """Answers what it is told, whatever it sees."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output, self.seen = output, None

    def forward(self, inputs: Any, present: Any) -> torch.Tensor:
        self.seen = inputs, present
        return self.output


def test_a_uniform_answer_costs_the_logarithm_of_the_number_of_classes() -> None:
    objective = classification()
    batch = objective.collate(prepared(objective))

    loss = objective.loss(Fixed(torch.zeros(6, 4)), batch)

    assert loss.scalar(objective.counts(batch)).item() == pytest.approx(math.log(4))
    assert objective.num_tokens(batch) == 6 * 32


@pytest.mark.parametrize("mix", [Mix(mixup=1.0), Mix(cutmix=1.0), Mix(mixup=0.2, cutmix=1.0)])
def test_pairs_share_what_they_are_made_of(mix: Mix) -> None:
    """Mixing moves pixels and labels between two neighbours in the same shares."""
    ones = torch.stack([torch.full((1, 16, 16), float(n)) for n in range(5)])

    mixed, partner, share = mix_pairs({"rgb": ones}, list(range(5)), mix)

    assert partner.tolist() == [1, 0, 3, 2, 4]
    assert share[4] == 1
    torch.testing.assert_close(mixed["rgb"][4], ones[4])
    for n in range(4):
        expected = share[n] * n + (1 - share[n]) * partner[n]
        assert mixed["rgb"][n].mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_mixing_is_the_same_for_any_number_of_ranks() -> None:
    objective = classification(mix=Mix(mixup=0.5, cutmix=1.0))
    items = prepared(objective, 8)

    whole, halves = objective.collate(items), [objective.collate(items[:4]), objective.collate(items[4:])]

    for name in ("rgb", "depth"):
        assert torch.equal(whole.inputs[name], torch.cat([half.inputs[name] for half in halves]))
    assert torch.equal(whole.share, torch.cat([half.share for half in halves]))
    assert torch.equal(whole.other, torch.cat([half.other for half in halves]))


def test_the_loss_of_mixed_images_is_that_of_both_classes_in_their_shares() -> None:
    objective = classification(mix=Mix(mixup=1.0))
    batch = objective.collate(prepared(objective, 2))
    scores = torch.tensor([[0.0, 0.0, 0.0, 9.0], [1.0, 2.0, 3.0, 4.0]])

    found = objective.loss(Fixed(scores), batch).parts["classification"][0]

    log = scores.log_softmax(1)
    expected = -sum(batch.share[n] * log[n, n] + (1 - batch.share[n]) * log[n, 1 - n] for n in range(2))
    torch.testing.assert_close(found, expected)


def test_one_modality_always_stays() -> None:
    objective = classification(modality_dropout=0.9)
    shown = [objective.prepare(samples(1)[0], np.random.default_rng(n)).shown for n in range(300)]

    assert all(any(s.values()) for s in shown)
    assert 80 < sum(not s["rgb"] for s in shown) < 200
    assert {tuple(s.values()) for s in shown} == {(True, True), (True, False), (False, True)}


def test_evaluation_hides_what_it_is_asked_to_and_mixes_nothing() -> None:
    objective = classification(modality_dropout=0.5, mix=Mix(mixup=1.0)).for_evaluation(["depth"])
    batch = objective.collate(prepared(objective))
    model = Fixed(torch.zeros(6, 4))
    objective.loss(model, batch)

    assert batch.other is None
    assert model.seen is not None
    assert model.seen[1]["depth"].tolist() == [False] * 6
    with pytest.raises(ConfigError, match="all inputs are hidden"):
        objective.for_evaluation(["rgb", "depth"])


def test_void_pixels_are_not_scored() -> None:
    objective = Supervised(Segmentation(SegmentationConfig("semseg"), SEMSEG), ModalitySet([RGB]))
    target = np.full((4, 4), -1, np.int64)
    target[0, :3] = [0, 1, 2]
    sample = {"rgb": np.zeros((3, 4, 4), np.float32), "semseg": target}
    batch = objective.collate([objective.prepare(sample, np.random.default_rng(0))])
    scores = torch.zeros(1, 3, 2, 2)  # enlarged to the target's size

    assert objective.counts(batch) == {"segmentation": 3.0}
    assert objective.loss(Fixed(scores), batch).scalar(objective.counts(batch)).item() == pytest.approx(math.log(3))


def test_silog_forgives_a_common_factor_as_far_as_it_is_told() -> None:
    true = torch.rand(2, 1, 4, 4) + 1
    wrong = (true * 3).log()

    def loss(share: float) -> torch.Tensor:
        return Depth(DepthConfig("depth", scale_invariance=share), DEPTH).loss(wrong, true)

    torch.testing.assert_close(loss(1.0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(loss(0.0), torch.full((2,), math.log(3) ** 2))
    torch.testing.assert_close(loss(0.5), torch.full((2,), math.log(3) ** 2 / 2))


def test_pixels_outside_the_range_are_not_scored() -> None:
    task = Depth(DepthConfig("depth", loss="log_l1", min_depth=1.0, max_depth=4.0), DEPTH)
    true = torch.tensor([0.0, 1.0, 2.0, 9.0]).reshape(1, 1, 2, 2)
    logs = torch.tensor([5.0, 0.5, math.log(2.0), 5.0]).reshape(1, 1, 2, 2)

    assert task.loss(logs, true).tolist() == pytest.approx([0.25])
    assert task.answer(torch.tensor([-9.0, 9.0])).tolist() == pytest.approx([1.0, 4.0])
    assert task.scored(np.zeros((1, 2, 2), np.float32)) == 0


def test_berhu_is_absolute_below_a_fifth_of_the_largest_error_and_squared_beyond() -> None:
    error = torch.tensor([[0.5, -1.0, 5.0, 100.0]])
    known = torch.tensor([[1.0, 1.0, 1.0, 0.0]])

    # The largest known error is 5, so the edge is 1; beyond it, (e^2 + 1) / 2.
    assert berhu(error, known, torch.tensor([3.0])).tolist() == pytest.approx([(0.5 + 1.0 + 13.0) / 3])


def test_berhu_still_teaches_where_answers_lie_outside_the_range() -> None:
    task = Depth(DepthConfig("depth", loss="berhu", min_depth=2.0, max_depth=4.0), DEPTH)
    logs = torch.zeros(1, 1, 2, 2, requires_grad=True)  # 1 m everywhere, as a new network says

    task.loss(logs, torch.full((1, 1, 2, 2), 3.0)).sum().backward()

    assert logs.grad is not None
    assert (logs.grad < 0).all()


def test_normals_are_scored_by_their_angle_where_there_are_any() -> None:
    task = Normals(NormalsConfig("normal"), NORMAL)
    true = torch.zeros(1, 3, 1, 3)
    true[0, 2, 0, :2] = 1.0
    output = torch.zeros(1, 3, 1, 3)
    output[0, 2, 0, 0], output[0, 0, 0, 1] = 7.0, 0.1

    torch.testing.assert_close(task.loss(output, true), torch.tensor([1.0]))  # right, and off by 90 degrees
    assert task.scored(true[0].numpy()) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segmentation(SegmentationConfig("depth"), DEPTH), "needs a map of classes"),
        (lambda: Depth(DepthConfig("normal"), NORMAL), "depth needs an image of 1 channel in"),
        (lambda: Normals(NormalsConfig("semseg"), SEMSEG), "normals needs an image of 3 channels"),
        (
            lambda: Supervised(
                Classification(ClassificationConfig(num_classes=4), LABEL), ModalitySet([TOKENS]), mix=Mix(1.0)
            ),
            "set them to 0 for inputs that are token ids",
        ),
    ],
)
def test_tasks_that_do_not_fit_their_modality_are_told(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_samples_without_an_input_and_of_other_shapes_are_told() -> None:
    objective = classification()
    with pytest.raises(DataError, match="a sample has no 'depth'"):
        objective.prepare({"rgb": np.zeros((3, 4, 4)), "label": np.asarray(0)}, np.random.default_rng(0))
    items = prepared(objective, 1)
    other = {**samples(1)[0], "depth": np.zeros((1, 5, 4), np.float32)}
    with pytest.raises(DataError, match="samples of 'depth' differ in shape"):
        objective.collate([*items, objective.prepare(other, np.random.default_rng(0))])


def test_texts_are_padded_to_the_longest() -> None:
    text = Modality("caption", Sequence(9), Discrete(50), "caption", "text", tokenizer="text")
    objective = Supervised(Classification(ClassificationConfig(num_classes=4), LABEL), ModalitySet([text]))
    rows = [np.arange(3), np.arange(5)]
    items = [objective.prepare({"caption": r, "label": np.asarray(0)}, np.random.default_rng(0)) for r in rows]

    assert objective.collate(items).inputs["caption"].tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]
