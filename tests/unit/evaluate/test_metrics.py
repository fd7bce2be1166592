from __future__ import annotations

import math

import pytest
import torch

from fourm.evaluate import metrics


def test_depth_error_is_zero_for_any_scale_and_shift_of_the_truth() -> None:
    truth = torch.rand(3, 1, 8, 8) * 5 + 0.5
    scale, shift = torch.tensor([2.0, -1.0, 0.1]).view(3, 1, 1, 1), 3.0
    assert metrics.abs_rel(truth * scale + shift, truth) == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_constant_depth_becomes_the_mean_of_the_truth() -> None:
    truth = torch.tensor([[[[1.0, 3.0]]]])
    assert metrics.abs_rel(torch.full_like(truth, 7.0), truth).item() == pytest.approx((1 / 1 + 1 / 3) / 2)


def test_depth_is_aligned_by_least_squares() -> None:
    # The best line through (0, 1), (1, 2), (2, 6) is 0.5 + 2.5 x.
    predicted, truth = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 2.0, 6.0]]])
    assert metrics.align_depth(predicted, truth)[0].tolist() == pytest.approx([0.5, 3.0, 5.5])
    assert metrics.abs_rel(predicted, truth).item() == pytest.approx((0.5 / 1 + 1 / 2 + 0.5 / 6) / 3)


def test_pixels_without_depth_are_left_out() -> None:
    truth = torch.tensor([[[[1.0, 2.0, 0.0]]]])
    predicted = torch.tensor([[[[10.0, 20.0, -99.0]]]])
    assert metrics.abs_rel(predicted, truth).item() == pytest.approx(0.0, abs=1e-9)


def test_delta_1_is_the_share_within_a_factor_of_a_quarter() -> None:
    truth = torch.tensor([[[1.0, 1.0, 3.0, 3.0, 0.0]]])
    # The errors cancel in mean and nearly in slope, so that aligning changes little.
    depth = torch.tensor([[[1.3, 0.7, 3.1, 2.9, 9.0]]])
    assert metrics.align_depth(depth, truth)[0, :4].tolist() == pytest.approx([1.3, 0.7, 3.1, 2.9], abs=0.07)
    assert metrics.delta1(depth, truth).item() == 0.5
    assert metrics.delta1(7 * truth + 2, truth).item() == 1.0


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30.0, 90.0, 180.0])
def test_angle_between_normals_of_any_length(degrees: float) -> None:
    a = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    radians = math.radians(degrees)
    b = 5 * torch.tensor([math.sin(radians), 0.0, math.cos(radians)], dtype=torch.float64).view(1, 3, 1, 1)
    assert metrics.mean_angle(a, b).item() == pytest.approx(degrees, abs=1e-9)


def test_mean_iou_averages_over_the_classes_of_the_truth() -> None:
    truth = torch.tensor([0, 0, 1, 1, 255])
    labels = torch.tensor([0, 1, 1, 1, 2])
    matrix = metrics.confusion(labels, truth, 4)
    assert matrix.sum() == 4  # void is left out
    assert metrics.mean_iou(matrix) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_mean_iou_agrees_with_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    generator = torch.Generator().manual_seed(0)
    labels, truth = (torch.randint(0, 5, (2, 16, 16), generator=generator) for _ in range(2))
    expected = MulticlassJaccardIndex(5)(labels, truth).item()
    assert metrics.mean_iou(metrics.confusion(labels, truth, 5)) == pytest.approx(expected)


def test_object_f1_is_micro_averaged() -> None:
    counts = metrics.set_counts([{"bed", "rug"}, set()], [{"bed"}, {"sofa", "desk"}])
    assert counts == (1, 2, 3)
    assert counts.f1 == pytest.approx(2 * 0.5 * (1 / 3) / (0.5 + 1 / 3))


def test_nothing_named_where_nothing_is_is_right() -> None:
    assert metrics.set_counts([set()], [set()]).f1 == 1.0


def test_psnr_of_a_constant_error() -> None:
    assert metrics.psnr(torch.full((4,), 0.1), torch.zeros(4)) == pytest.approx(20.0)


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_ssim_of_constant_images_is_the_ratio_of_their_means() -> None:
    a, b = 0.2, 0.7
    images, truth = (torch.full((2, 3, 16, 16), value) for value in (a, b))
    expected = (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    assert metrics.ssim(images, truth).tolist() == pytest.approx([expected] * 2, abs=1e-3)
    assert metrics.ssim(truth, truth).tolist() == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_ssim_of_textured_images_is_that_of_double_precision() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure as reference

    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 32, 32, generator=generator)
    images = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    expected = reference(images.double(), truth.double(), data_range=1.0, reduction="none")
    assert metrics.ssim(images, truth).tolist() == pytest.approx(expected.tolist(), abs=1e-4)  # type: ignore[union-attr]
    assert metrics.ssim(truth, truth).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_fine_detail_is_what_changes_faster_than_every_fourth_pixel() -> None:
    x = torch.arange(32).expand(1, 1, 32, 32)

    def waves(period: float, strength: float) -> torch.Tensor:
        return 0.5 + strength * torch.cos(2 * math.pi * x / period)

    energy = metrics.high_frequency_energy
    assert energy(waves(2, 0.1)).item() / energy(waves(2, 0.2)).item() == pytest.approx(0.25)
    assert energy(waves(16, 0.2)).item() < 1e-9 * energy(waves(2, 0.2)).item()
    assert energy(waves(3, 0.2).transpose(2, 3)).item() == pytest.approx(energy(waves(3, 0.2)).item())


def test_a_smooth_slope_has_no_fine_detail_although_its_borders_differ() -> None:
    slope = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    assert metrics.high_frequency_energy(slope) < 1e-5 * metrics.high_frequency_energy(checks[None, None].float())


def test_cosine_is_averaged_over_places() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).T.reshape(1, 2, 1, 2)
    vectors = torch.tensor([[3.0, 0.0], [1.0, 1.0]]).T.reshape(1, 2, 1, 2)
    assert metrics.cosine_similarity(vectors, truth).item() == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert metrics.cosine_similarity(vectors[..., 0], -truth[..., 0]).item() == pytest.approx(-1)


def test_accuracy_counts_missing_answers_as_wrong() -> None:
    assert metrics.accuracy(torch.tensor([1, -1, 2]), torch.tensor([1, 1, 2])) == pytest.approx(2 / 3)


def test_recall_agrees_with_sorting_all_things() -> None:
    rng = torch.Generator().manual_seed(0)
    queries, things = torch.randn(30, 4, generator=rng), torch.randn(30, 4, generator=rng)
    queries = queries + things
    cosines = (queries / queries.norm(dim=1, keepdim=True)) @ (things / things.norm(dim=1, keepdim=True)).T
    ranks = [sorted(range(30), key=lambda j: -float(cosines[i, j])).index(i) for i in range(30)]
    expected = [sum(rank < count for rank in ranks) / 30 for count in (1, 5, 10)]
    assert metrics.recall_at(queries, things, [1, 5, 10]) == pytest.approx(expected)
    assert 0.1 < expected[0] < expected[2] < 1.01


def test_things_that_are_all_alike_are_not_found() -> None:
    same = torch.ones(10, 4)
    assert metrics.recall_at(same, same, [1, 9, 10]) == [0, 0, 1]
