"""What `fourm doctor` tries on GPUs, tried on the CPU: the checks pass where all is well, and fail where it is not."""

from __future__ import annotations

import pytest
import torch

from fourm.recipe import gpu_checks
from fourm.recipe.gpu_checks import NAMES

CPU = torch.device("cpu")


def test_without_a_gpu_every_check_says_that_it_was_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checks = gpu_checks.gpu_checks()
    assert [check.name for check in checks] == list(NAMES)
    assert all(check.status == "optional" and "skipped: torch sees no CUDA GPU" in check.detail for check in checks)


def test_with_one_gpu_all_but_the_exchange_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpu_checks, "parity", lambda device: "the same")
    for name in ("compiled", "flex", "training"):
        monkeypatch.setattr(gpu_checks, name, lambda *args, **kwargs: f"{1 / 0}")
    monkeypatch.setattr(gpu_checks, "in_ranks", lambda work, count, kind: f"{work.__name__} in {count}")
    checks = {check.name: check for check in gpu_checks.gpu_checks()}
    assert (checks["parity"].status, checks["parity"].detail) == ("ok", "the same")
    assert checks["FSDP2"].detail == "sharded in 1, on 1 GPUs"
    assert "one GPU" in checks["collective bandwidth"].detail
    assert checks["FlexAttention"].status == "missing"
    assert "ZeroDivisionError" in checks["FlexAttention"].detail


def test_a_device_that_computes_something_else_fails() -> None:
    assert gpu_checks.compare("it", (1.0, 2.0), (1.00001, 2.0), 1e-4) == "loss and gradients within 1.0e-05"
    for wrong in ((1.1, 2.0), (1.0, 2.1), (float("nan"), 2.0)):
        with pytest.raises(ArithmeticError, match="it gives loss"):
            gpu_checks.compare("it", wrong, (1.0, 2.0), 1e-4)


def test_the_cpu_agrees_with_itself() -> None:
    assert "loss and gradients within 0.0e+00 of the CPU's" in gpu_checks.parity(CPU)


def test_a_short_training_brings_the_loss_down() -> None:
    assert "samples/s, loss" in gpu_checks.training(CPU, gpu_checks.tiny("model.dim=96"), batch_size=2, steps=4)


@pytest.mark.slow
def test_ranks_shard_a_model_and_exchange_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "loss and gradients within" in gpu_checks.in_ranks(gpu_checks.sharded, 2, "cpu")
    assert "GB/s per rank over 2 ranks" in gpu_checks.in_ranks(gpu_checks.bandwidth, 2, "cpu")
