from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError
from fourm.modality import Continuous, Discrete, Grid, Modality
from fourm.objectives.reconstruct import Reconstruct, Shown
from fourm.objectives.reconstruct_config import ReconstructConfig

RGB = Modality("rgb", Grid(2, 2, 2), Continuous(12), "rgb", "image", channels=3)
LABELS = Modality("semseg", Grid(4, 4, 1), Discrete(5), "semseg", "labels")


class Fixed(nn.Module):
    """Answers every image with the same output and commitment."""

    def __init__(self, output: torch.Tensor, commitment: torch.Tensor, target: torch.Tensor | None = None) -> None:
        super().__init__()
        self.output, self.commitment, self.target = nn.Parameter(output), commitment, target

    def forward(self, images: torch.Tensor, seeds: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(output=self.output, commitment=self.commitment, target=self.target)


def shown(images: torch.Tensor) -> list[Shown]:
    return [Shown(image, n) for n, image in enumerate(images.numpy())]


def scalar(objective, model, batch) -> torch.Tensor:
    return objective.loss(model, batch).scalar(objective.counts(batch))


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("mse", lambda a, b: (a - b).square().mean()),
        ("l1", lambda a, b: (a - b).abs().mean()),
        ("smooth_l1", F.smooth_l1_loss),
        ("cosine", lambda a, b: (1 - (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1)).mean()),
    ],
)
def test_the_loss_is_the_mean_distance_plus_the_weighted_commitment(loss, formula):
    torch.manual_seed(0)
    images, output, commitment = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.6])
    objective = Reconstruct(ReconstructConfig(loss, commit_weight=0.5), RGB)
    batch = objective.collate([objective.prepare({"rgb": x.numpy()}, np.random.default_rng(0)) for x in images])
    torch.testing.assert_close(
        scalar(objective, Fixed(output, commitment), batch).detach(), formula(output, images) + 0.5 * 0.4
    )


def test_a_target_of_the_decoders_own_takes_the_place_of_the_image():
    torch.manual_seed(0)
    images, output, target = torch.randn(3, 2, 3, 4, 4).unbind()
    objective = Reconstruct(ReconstructConfig("mse"), RGB)
    found = scalar(objective, Fixed(output, torch.zeros(2), target), objective.collate(shown(images)))
    torch.testing.assert_close(found.detach(), (output - target).square().mean())


def test_each_sample_brings_a_seed_that_its_generator_decides():
    objective = Reconstruct(ReconstructConfig("mse"), RGB)
    seeds = [objective.prepare({"rgb": np.zeros((3, 4, 4))}, np.random.default_rng(n)).seed for n in (0, 1, 0)]
    assert seeds[0] == seeds[2] != seeds[1]


def test_void_pixels_are_neither_scored_nor_counted():
    torch.manual_seed(0)
    labels, logits = torch.randint(0, 5, (2, 4, 4)), torch.randn(2, 5, 4, 4)
    labels[0, :2] = -1
    objective = Reconstruct(ReconstructConfig("cross_entropy"), LABELS)
    batch = objective.collate(shown(labels))
    assert objective.counts(batch) == {"reconstruct": 24.0, "commit": 2.0}
    expected = F.cross_entropy(logits, labels, ignore_index=-1)
    torch.testing.assert_close(scalar(objective, Fixed(logits, torch.zeros(2)), batch).detach(), expected)


def test_micro_batches_add_up_to_the_loss_of_the_whole_batch():
    torch.manual_seed(0)
    labels, logits, commitment = torch.randint(-1, 5, (4, 4, 4)), torch.randn(4, 5, 4, 4), torch.rand(4)
    objective = Reconstruct(ReconstructConfig("cross_entropy", 0.25), LABELS)
    whole = objective.collate(shown(labels))
    expected = scalar(objective, Fixed(logits, commitment), whole)
    totals = objective.counts(whole)
    shares = []
    for part in (slice(0, 1), slice(1, 4)):
        batch = objective.collate(shown(labels[part]))
        shares.append(objective.loss(Fixed(logits[part], commitment[part]), batch).scalar(totals))
    torch.testing.assert_close(sum(shares), expected)


def test_tokens_are_counted_per_image():
    batch = Reconstruct(ReconstructConfig("l1"), RGB).collate([Shown(np.zeros((3, 4, 4), np.float32), 0)] * 5)
    assert Reconstruct(ReconstructConfig("l1"), RGB).num_tokens(batch) == 5 * 4
    assert Reconstruct(ReconstructConfig("l1"), RGB, num_tokens=7).num_tokens(batch) == 5 * 7


def test_batches_move_between_devices_with_their_counts():
    objective = Reconstruct(ReconstructConfig("l1"), RGB)
    batch = objective.collate([Shown(np.zeros((3, 4, 4), np.float32), 0)] * 2)
    moved = batch.to("meta", non_blocking=True)
    assert moved.images.device.type == "meta"
    assert objective.counts(moved) == objective.counts(batch)


@pytest.mark.parametrize(("loss", "modality"), [("cross_entropy", RGB), ("l1", LABELS)])
def test_a_loss_that_does_not_fit_the_modality_is_refused(loss, modality):
    with pytest.raises(ConfigError, match=f"objective.loss is '{loss}', but modality '{modality.name}'"):
        Reconstruct(ReconstructConfig(loss), modality)


def test_a_sample_without_the_modality_is_refused():
    with pytest.raises(DataError, match="no 'rgb'; it has depth"):
        Reconstruct(ReconstructConfig("l1"), RGB).prepare({"depth": 0}, np.random.default_rng(0))


def test_tokens_are_counted_at_the_size_the_images_have():
    objective = Reconstruct(ReconstructConfig(), RGB)
    own, larger = (objective.collate(shown(torch.zeros(3, 3, side, side))) for side in (4, 8))
    assert (objective.num_tokens(own), objective.num_tokens(larger)) == (12, 48)
