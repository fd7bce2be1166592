from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
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


MASK = Modality("mask", Grid(2, 2, 2), Continuous(4), "mask", "gray", channels=1, normalization="mask")
CLIP = Modality(
    "clip", Grid(2, 2, 4), Continuous(5), "rgb", "image", teacher="mine", channels=3, normalization="imagenet"
)


class Means(nn.Module):
    """A teacher: the mean of each patch of 4 x 4 pixels, five times as long as wide."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (
            F.avg_pool2d(images, 4).mean(1, keepdim=True) * torch.arange(1.0, 6.0, device=images.device)[:, None, None]
        )


def test_masks_are_scored_by_the_cross_entropy_of_each_pixel():
    torch.manual_seed(0)
    masks, logits = (torch.rand(2, 1, 4, 4) > 0.5).float(), torch.randn(2, 1, 4, 4)
    objective = Reconstruct(ReconstructConfig("binary_cross_entropy", 0.0), MASK)
    found = scalar(objective, Fixed(logits, torch.zeros(2)), objective.collate(shown(masks))).detach()
    p = torch.sigmoid(logits)
    torch.testing.assert_close(found, -(masks * p.log() + (1 - masks) * (1 - p).log()).mean())


@pytest.mark.parametrize(
    ("loss", "modality", "message"),
    [
        ("mse", MASK, "'mask' is a mask: use binary_cross_entropy"),
        ("binary_cross_entropy", RGB, "'rgb' is continuous: use l1 or mse"),
        ("binary_cross_entropy", LABELS, "'semseg' is a label map: use cross_entropy"),
        ("binary_cross_entropy", replace(RGB, normalization="mask"), "mask and 3 channels; expected 1"),
    ],
)
def test_masks_have_a_loss_of_their_own_and_one_channel(loss, modality, message):
    with pytest.raises(ConfigError, match=message):
        Reconstruct(ReconstructConfig(loss), modality)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("smooth_l1", F.smooth_l1_loss),
        ("cosine", lambda a, b: (1 - F.cosine_similarity(a, b, dim=1)).mean()),
    ],
)
def test_where_a_teacher_makes_the_values_its_features_are_shown_and_scored(loss, formula):
    torch.manual_seed(0)
    images, output = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 2, 2)
    objective = Reconstruct(ReconstructConfig(loss, 0.0), CLIP, teacher=Means())
    batch = objective.collate(shown(images))

    class Echo(Fixed):
        def forward(self, images: torch.Tensor, seeds: torch.Tensor) -> SimpleNamespace:
            self.seen = images
            return super().forward(images, seeds)

    model = Echo(output, torch.zeros(2))
    features = Means()(images)
    torch.testing.assert_close(scalar(objective, model, batch).detach(), formula(output, features))
    torch.testing.assert_close(model.seen, features)
    assert objective.counts(batch)["reconstruct"] == {"smooth_l1": 2 * 5 * 2 * 2, "cosine": 2 * 2 * 2}[loss]


def test_a_teacher_and_its_modality_come_together():
    for modality, teacher in ((CLIP, None), (RGB, Means())):
        with pytest.raises(ConfigError, match="has teacher"):
            Reconstruct(ReconstructConfig("l1"), modality, teacher=teacher)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [("mse", F.mse_loss), ("cosine", lambda a, b: (1 - F.cosine_similarity(a, b)).mean())],
)
def test_a_target_of_another_size_is_scored_by_its_own_mean(loss, formula):
    """Latents, say: the mean is over their numbers, not over those of the image."""
    torch.manual_seed(0)
    images, output, target = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    objective = Reconstruct(ReconstructConfig(loss), RGB)
    found = scalar(objective, Fixed(output, torch.zeros(2), target), objective.collate(shown(images)))
    torch.testing.assert_close(found.detach(), formula(output, target))
