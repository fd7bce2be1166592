from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fourm.evaluate.networks import NetworkScore, fid

CPU = torch.device("cpu")
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Colours(nn.Module):
    """The mean colour as features."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def failing(error: Exception) -> Any:
    def build() -> Any:
        raise error

    return build


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("no route to host"), "cannot be downloaded (no route to host)"),
        (ModuleNotFoundError("needs torch-fidelity"), "a package is missing (needs torch-fidelity)"),
        (RuntimeError("Output size is too small\nat layer 3"), "cannot take these images (Output size is too small)"),
    ],
)
def test_what_cannot_be_built_says_why(error: Exception, reason: str) -> None:
    score = NetworkScore(failing(error), lambda *_: None, CPU)
    score.add(IMAGES, IMAGES)
    assert score.value() != score.value()
    assert reason in score.reason


def test_what_fails_on_the_way_says_why() -> None:
    def add(*_: Any) -> None:
        raise RuntimeError("too small")

    score = NetworkScore(nn.Identity, add, CPU)
    score.add(IMAGES, IMAGES)
    assert score.value() != score.value()
    assert "too small" in score.reason


def test_mistakes_of_the_program_are_not_hidden() -> None:
    with pytest.raises(KeyError):
        NetworkScore(failing(KeyError("x")), lambda *_: None, CPU)


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_fid_is_the_squared_distance_of_means_where_covariances_agree() -> None:
    same, moved = (fid(CPU, Colours()) for _ in range(2))
    images = 0.5 * IMAGES
    for rows in torch.arange(6).split(4):
        same.add(images[rows], images[rows])
        moved.add(images[rows] + 0.2, images[rows])
    assert same.value() == pytest.approx(0, abs=1e-6)
    assert moved.value() == pytest.approx(3 * 0.2**2, rel=1e-3)


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_fid_of_a_single_image_says_why_it_is_missing() -> None:
    score = fid(CPU, Colours())
    score.add(IMAGES[:1], IMAGES[:1])
    assert score.value() != score.value()
    assert "More than one sample" in score.reason


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_lpips_takes_images_from_0_to_1_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With untrained weights: the trained ones are a download."""
    import torchvision
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    from fourm.evaluate.networks import lpips

    alexnet = torchvision.models.alexnet

    def untrained(**_: Any) -> nn.Module:
        torch.manual_seed(0)
        return alexnet()

    monkeypatch.setattr("torchvision.models.alexnet", untrained)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    same, other = lpips(CPU), lpips(CPU)
    for rows in torch.arange(3).split(2):
        same.add(images[rows], images[rows])
        other.add(images[rows].flip(-1), images[rows])
    assert (same.reason, other.reason) == ("", "")
    assert same.value() == pytest.approx(0, abs=1e-6)
    expected = learned_perceptual_image_patch_similarity(2 * images.flip(-1) - 1, 2 * images - 1, "alex")
    assert other.value() == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_images_smaller_than_the_network_takes_leave_lpips_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    from fourm.evaluate.networks import lpips

    alexnet = torchvision.models.alexnet
    monkeypatch.setattr("torchvision.models.alexnet", lambda **_: alexnet())
    score = lpips(CPU)
    score.add(IMAGES, IMAGES)
    assert score.value() != score.value()
    assert "cannot take these images" in score.reason
