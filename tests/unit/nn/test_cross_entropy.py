"""Cross-entropy without all logits: the values and gradients of the plain one, for any number of pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.nn import cross_entropy
from fourm.nn.cross_entropy import Asked, linear_cross_entropy

SIZES = {"a": (0, 7), "b": (10, 30), "c": (30, 41)}
"""Heads; rows 7 to 9 and those from 41 belong to none that is asked."""


@pytest.fixture(params=[2**24, 50, 1], ids=["at once", "in pieces", "row by row"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", request.param)
    return int(request.param)


def made(counts: dict[str, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict[str, Asked]]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 5, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(45, 5, generator=generator, dtype=dtype, requires_grad=True)
    order, asked, start = torch.randperm(24, generator=generator), {}, 0
    for name, count in counts.items():
        low, high = SIZES[name]
        targets = torch.randint(high - low, (count,), generator=generator)
        asked[name] = Asked(low, high, order[start : start + count], targets)
        start += count
    return hidden, weight, asked


def plain(hidden: Tensor, weight: Tensor, asked: dict[str, Asked]) -> list[Tensor]:
    return [
        F.cross_entropy(F.linear(hidden[a.rows], weight[a.start : a.stop]).float(), a.targets, reduction="none")
        for a in asked.values()
    ]


def weighted(losses: list[Tensor]) -> Tensor:
    """A sum in which every token counts otherwise."""
    return torch.stack([(x * torch.arange(1, len(x) + 1)).sum() * (n - 0.5) for n, x in enumerate(losses)]).sum()


@pytest.mark.parametrize("counts", [{"a": 9, "b": 4, "c": 6}, {"c": 8, "a": 3}, {"a": 0, "b": 5}])
def test_values_and_gradients_are_those_of_the_plain_one(pieces: int, counts: dict[str, int]) -> None:
    hidden, weight, asked = made(counts, torch.float32)
    ours, theirs = linear_cross_entropy(hidden, weight, list(asked.values())), plain(hidden, weight, asked)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    expected = torch.autograd.grad(weighted(theirs), [hidden, weight])
    for one, other in zip(torch.autograd.grad(weighted(ours), [hidden, weight]), expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences(pieces: int) -> None:
    hidden, weight, asked = made({"a": 3, "b": 4})

    def total(hidden: Tensor, weight: Tensor) -> Tensor:
        return weighted(linear_cross_entropy(hidden, weight, list(asked.values())))

    # the loss is a float32, so steps are large
    assert torch.autograd.gradcheck(total, (hidden, weight), eps=1e-2, atol=2e-2, rtol=1e-2)


def test_frozen_heads_have_no_gradient_and_pass_one_on(pieces: int) -> None:
    hidden, weight, asked = made({"b": 6}, torch.float32)
    (expected,) = torch.autograd.grad(weighted(plain(hidden, weight, asked)), [hidden])
    weight.requires_grad_(False)
    weighted(linear_cross_entropy(hidden, weight, list(asked.values()))).backward()
    assert weight.grad is None
    torch.testing.assert_close(hidden.grad, expected, atol=2e-5, rtol=1e-5)


def test_autocast_is_as_near_to_float32_as_the_plain_one(pieces: int) -> None:
    hidden, weight, asked = made({"a": 9, "b": 4, "c": 6}, torch.float32)
    exact = torch.autograd.grad(weighted(plain(hidden, weight, asked)), [hidden, weight])
    errors = {}
    for name in ("ours", "plain"):
        with torch.autocast("cpu", torch.bfloat16):
            ours = linear_cross_entropy(hidden, weight, list(asked.values()))
            form = ours if name == "ours" else plain(hidden, weight, asked)
        found = torch.autograd.grad(weighted(form), [hidden, weight])
        assert [g.dtype for g in found] == [torch.float32, torch.float32]
        errors[name] = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    for ours, theirs in zip(errors["ours"], errors["plain"], strict=True):
        assert ours < 1.5 * theirs + 1e-3


def test_an_answer_that_is_nearly_sure_is_still_learned_in_bf16(pieces: int) -> None:
    hidden, weight = torch.ones(8, 1), torch.tensor([[7.0], [0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (losses,) = linear_cross_entropy(hidden, weight, [Asked(0, 2, torch.arange(8), torch.zeros(8).long())])
    losses.mean().backward()
    unsure = 1 - torch.sigmoid(torch.tensor(7.0))  # 0.0009, where bfloat16's numbers below 1 are 0.004 apart
    torch.testing.assert_close(weight.grad, torch.stack([-unsure, unsure])[:, None], atol=0, rtol=1e-2)


def test_nothing_of_the_size_of_all_logits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 100)
    hidden, weight, asked = made({"b": 20}, torch.float32)
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear_cross_entropy(hidden, weight, list(asked.values()))
        ours = max(sizes)
        sizes.clear()
        plain(hidden, weight, asked)
    assert max(sizes) == 20 * 20
    assert ours == weight.numel() < 20 * 20


def test_gradients_of_heads_in_bf16_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that themselves are bfloat16, as under FSDP: pieces are not rounded into the sum one by one."""
    hidden, weight = torch.randn(600, 16, generator=torch.manual_seed(0)), torch.randn(8, 16)
    rows, targets = torch.arange(600), torch.randint(0, 8, (600,))

    def gradient(size: int) -> torch.Tensor:
        monkeypatch.setattr(cross_entropy, "MAX_LOGITS", size)
        heads = weight.to(torch.bfloat16).requires_grad_()
        (loss,) = linear_cross_entropy(hidden.to(torch.bfloat16), heads, [Asked(0, 8, rows, targets)])
        loss.sum().backward()
        assert heads.grad is not None
        return heads.grad.double()

    exact = weight.to(torch.bfloat16).double().requires_grad_()
    logits = hidden.to(torch.bfloat16).double() @ exact.T
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    assert exact.grad is not None
    for size in (2**24, 8):
        assert (gradient(size) - exact.grad).norm() < 0.005 * exact.grad.norm()
