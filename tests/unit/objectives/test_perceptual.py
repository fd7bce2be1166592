"""Distances of images as networks see them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.objectives.perceptual import UnitImages, build_perceptual
from fourm.objectives.reconstruct import Reconstruct, Shown
from fourm.objectives.reconstruct_config import FeatureDistanceConfig, LpipsConfig, ReconstructConfig

RGB = Modality(
    "rgb", Grid(2, 2, 16), Continuous(768), "rgb", "image",
    channels=3, value_range=(0.0, 1.0), normalization="half",
)  # fmt: skip
GREY = replace(RGB, name="grey", channels=1, content=Continuous(256), decode="gray")
FEATURES = FeatureDistanceConfig(name="test_vit", blocks=(1, 3), pretrained=False)


@pytest.fixture
def random_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's AlexNet without its download."""
    build = torchvision.models.alexnet

    def seeded(weights: Any = None) -> nn.Module:
        return build(weights=None)

    monkeypatch.setattr(torchvision.models, "alexnet", seeded)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("normalization", "value_range", "natural"),
    [
        ("half", (0.0, 1.0), 0.25),
        ("half", (-1.0, 1.0), -0.5),
        ("none", (0.0, 4.0), 1.0),
        ("imagenet", (0.0, 1.0), 0.25),
    ],
)
def test_networks_see_every_image_between_0_and_1(normalization, value_range, natural) -> None:
    from fourm.data.transforms import normalize

    modality = replace(RGB, normalization=normalization, value_range=value_range)
    values = normalize(np.full((3, 2, 2), natural, np.float32), modality)
    torch.testing.assert_close(UnitImages(modality)(torch.from_numpy(values)[None]), torch.full((1, 3, 2, 2), 0.25))


def test_the_feature_distance_is_the_cosine_distance_of_the_chosen_blocks() -> None:
    distance = build_perceptual(FEATURES, RGB)
    images, truth = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)

    def blocks(x: Tensor) -> list[Tensor]:
        model = distance.network  # trained on 160 pixels with mean and deviation .5, so [-1, 1] stays as it is
        x = F.interpolate((x + 1) / 2, (160, 160), mode="bilinear", antialias=True) * 2 - 1
        tokens, found = model.norm_pre(model._pos_embed(model.patch_embed(x))), []
        for block in model.blocks:
            tokens = block(tokens)
            found.append(tokens[:, 1:])
        return found

    pairs = list(zip(blocks(images), blocks(truth)))
    expected = sum((1 - F.cosine_similarity(*pairs[n], dim=-1)).mean(1) for n in (1, 3))
    torch.testing.assert_close(distance(images, truth), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distance(truth, truth), torch.zeros(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [FEATURES, LpipsConfig(network="alex")])
def test_distances_lead_the_image_to_the_truth_and_grey_images_count_as_colour(config, random_alexnet) -> None:
    distance = build_perceptual(config, GREY)
    truth = noise(2, 1, 32, 32)
    image = (truth + 0.5 * noise(2, 1, 32, 32, seed=1)).requires_grad_()

    found = distance(image, truth)
    found.sum().backward()

    assert found.shape == (2,)
    assert (found > 0).all()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    in_colour = build_perceptual(config, RGB)
    in_colour.load_state_dict(distance.state_dict(), strict=False)
    torch.testing.assert_close(in_colour(image.expand(-1, 3, -1, -1), truth.expand(-1, 3, -1, -1)), found)


def test_lpips_is_that_of_torchmetrics(random_alexnet) -> None:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    distance = build_perceptual(LpipsConfig(network="alex"), RGB)
    metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    metric.net.load_state_dict(distance.network.state_dict())
    images, truth = noise(3, 3, 64, 64), noise(3, 3, 64, 64, seed=1)

    torch.testing.assert_close(distance(images, truth).mean(), metric((images + 1) / 2, (truth + 1) / 2))


@pytest.mark.parametrize(
    "modality",
    [
        replace(RGB, normalization="standardize"),
        replace(GREY, normalization="mask"),
        Modality("clip", Grid(2, 2, 16), Continuous(64), "rgb", "image", channels=3, teacher="clip_b16"),
        Modality("vector", Grid(1, 1), Continuous(7), "vector", "vectors", channels=7),
        Modality("labels", Grid(32, 32), Discrete(5), "labels", "labels"),
    ],
    ids=lambda m: f"{m.name}-{m.normalization}",
)
def test_what_is_no_image_of_a_fixed_range_is_refused(modality) -> None:
    with pytest.raises(ConfigError, match=f"compares colour or grey images, but modality '{modality.name}'"):
        build_perceptual(FEATURES, modality)


def test_images_too_small_for_lpips_and_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lpips needs images of 32 pixels or more per side.*have 16 x 16"):
        build_perceptual(LpipsConfig(), replace(RGB, layout=Grid(1, 1, 16)))
    with pytest.raises(ConfigError, match=r"perceptual.blocks is \[1, 99\], but 'test_vit' does not have all"):
        build_perceptual(replace(FEATURES, blocks=(1, 99)), RGB)
    with pytest.raises(ConfigError, match="weight is 0"):
        LpipsConfig(weight=0)
    with pytest.raises(ConfigError, match="blocks is empty"):
        FeatureDistanceConfig(blocks=())


def test_weights_that_cannot_be_had_are_an_error_that_names_the_way_out(monkeypatch) -> None:
    def no_network(weights: Any = None) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "vgg16", no_network)
    with pytest.raises(CheckpointError, match=r"network vgg: .*no route to host.*VGG16_Weights.DEFAULT.url into .*hub"):
        build_perceptual(LpipsConfig(), RGB)


# ---------------------------------------------------------------- as a part of the loss


class Fixed(nn.Module):
    """Answers with the same output, whatever it is shown."""

    def __init__(self, output: Tensor, target: Tensor | None = None) -> None:
        super().__init__()
        self.output, self.target = output, target

    def forward(self, images: Tensor, seeds: Tensor) -> SimpleNamespace:
        return SimpleNamespace(output=self.output, commitment=images.new_ones(len(images)), target=self.target)


def test_it_is_a_part_of_the_loss_with_a_count_and_a_weight_of_its_own() -> None:
    objective = Reconstruct(ReconstructConfig("mse", 0.5, replace(FEATURES, weight=3.0)), RGB)
    truth, output = noise(4, 3, 32, 32), noise(4, 3, 32, 32, seed=1)
    batch = objective.collate([Shown(image, n) for n, image in enumerate(truth.numpy())])

    loss = objective.loss(Fixed(output), batch)

    assert objective.parts == ("reconstruct", "commit", "perceptual")
    assert objective.counts(batch) == {"reconstruct": 4 * 3 * 32 * 32, "commit": 4, "perceptual": 4}
    expected = F.mse_loss(output, truth) + 0.5 + 3 * objective.frozen["perceptual"](output, truth).mean()
    torch.testing.assert_close(loss.scalar(objective.counts(batch)), expected)
    assert Reconstruct(ReconstructConfig("mse"), RGB).parts == ("reconstruct", "commit")


def test_micro_batches_add_up_to_the_loss_of_the_whole_batch() -> None:
    objective = Reconstruct(ReconstructConfig("mse", 0.5, FEATURES), RGB)
    truth, output = noise(3, 3, 32, 32), noise(3, 3, 32, 32, seed=1)
    whole = objective.collate([Shown(image, 0) for image in truth.numpy()])
    totals = objective.counts(whole)
    shares = []
    for part in (slice(0, 1), slice(1, 3)):
        batch = objective.collate([Shown(image, 0) for image in truth[part].numpy()])
        shares.append(objective.loss(Fixed(output[part]), batch).scalar(totals))
    torch.testing.assert_close(sum(shares), objective.loss(Fixed(output), whole).scalar(totals))


def test_nothing_waits_for_the_device_and_no_network_goes_into_loader_processes() -> None:
    objective = Reconstruct(ReconstructConfig("mse", 0.5, FEATURES), RGB)
    batch = objective.collate([Shown(image, 0) for image in noise(2, 3, 32, 32).numpy()])
    objective.frozen["perceptual"].to("meta")

    loss = objective.loss(Fixed(torch.zeros(2, 3, 32, 32, device="meta")), batch.to("meta"))

    assert loss.scalar(objective.counts(batch)).device.type == "meta"
    assert pickle.loads(pickle.dumps(objective)).frozen == {}
