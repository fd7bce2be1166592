from __future__ import annotations

import pytest
import torch

from fourm.evaluate.linear import Ridge, hard_labels, predict, soft_labels, thumbnail


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator) + 2
    y = x @ torch.randn(5, 3, generator=generator) + 7 + 0.1 * torch.randn(60, 3, generator=generator)
    return x, y


def test_agrees_with_least_squares_on_all_samples(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = data
    ridge = Ridge()
    for rows in torch.arange(60).split(17):
        ridge.add(x[rows], {"y": y[rows]})
    ones = torch.cat([x, torch.ones(60, 1)], 1)
    expected = ones @ torch.linalg.lstsq(ones, y).solution
    assert torch.allclose(predict(x, *ridge.weights("y", 0.0)), expected, atol=1e-3)


def test_penalty_is_that_of_the_closed_form(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = data
    ridge = Ridge()
    ridge.add(x, {"y": y})
    xc, yc = (v.double() - v.double().mean(0) for v in data)
    penalty = 0.3 * xc.square().mean() * len(x)
    expected = torch.linalg.solve(xc.T @ xc + penalty * torch.eye(5), xc.T @ yc).float()
    weights, bias = ridge.weights("y", 0.3)
    assert torch.allclose(weights, expected, atol=1e-4)
    assert torch.allclose(predict(x.mean(0, keepdim=True), weights, bias), y.mean(0, keepdim=True), atol=1e-4)


def test_noise_wants_a_stronger_penalty_than_signal() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(80, 40, generator=generator)
    clean, noise = x @ torch.randn(40, 1, generator=generator), torch.randn(80, 1, generator=generator)
    ridge = Ridge()
    ridge.add(x[:50], {"clean": clean[:50], "noise": noise[:50]})
    chosen = {
        name: ridge.best_strength(name, x[50:], lambda p, y=y: float((p - y[50:]).square().mean()))
        for name, y in (("clean", clean), ("noise", noise))
    }
    assert chosen["clean"] < chosen["noise"]


def test_thumbnail_is_the_mean_of_blocks() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert thumbnail(image, 2).tolist() == [[2.5, 4.5, 10.5, 12.5]]


def test_labels_survive_the_way_through_scores() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, :, 4:] = 2
    labels[:, 0, 0] = -1
    shares = soft_labels(labels, 3)
    assert shares.shape == (1, 3, 4, 4)
    assert shares[0, :, 0, 0].tolist() == [0.75, 0.0, 0.0]
    assert torch.equal(hard_labels(shares, (8, 8)), labels.clamp(min=0))
