"""Mean losses over an evaluation set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fourm.objectives.base import Loss
from fourm.recipe.evaluation import MeanLoss
from fourm.train.distributed import World


class Batch:
    def __init__(self, **parts: tuple[float, float]) -> None:
        self.parts = parts

    def to(self, device: Any, **options: Any) -> Batch:
        return self


class Objective:
    """Sums and counts are those of the batch."""

    parts = ("depth", "caption", "never")

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        return Loss(
            {p: (torch.tensor(s), n) for p, (s, n) in ((p, batch.parts.get(p, (0.0, 0.0))) for p in self.parts)}
        )


def test_losses_are_means_over_all_tokens_not_over_batches() -> None:
    mean = MeanLoss(Objective(), World(), bf16=False)  # type: ignore[arg-type]
    mean.add(nn.Identity(), Batch(depth=(10.0, 10.0), caption=(8.0, 2.0)))
    mean.add(nn.Identity(), Batch(depth=(2.0, 30.0)))

    result = mean.result()

    assert result == pytest.approx({"loss": 20 / 42, "loss/depth": 12 / 40, "loss/caption": 4.0})


def test_parts_in_different_units_are_weighed_as_in_training() -> None:
    class Tokenizer(Objective):
        parts = ("reconstruct", "commit")

        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            return Loss(super().loss(model, batch).parts, "weighted", {"reconstruct": 1.0, "commit": 0.25})

    mean = MeanLoss(Tokenizer(), World(), bf16=False)  # type: ignore[arg-type]
    mean.add(nn.Identity(), Batch(reconstruct=(300.0, 1000.0), commit=(4.0, 2.0)))
    mean.add(nn.Identity(), Batch(reconstruct=(100.0, 1000.0), commit=(4.0, 2.0)))

    assert mean.result()["loss"] == pytest.approx(400 / 2000 + 0.25 * 8 / 4)


def test_an_empty_set_has_no_loss() -> None:
    assert MeanLoss(Objective(), World(), bf16=False).result() == {"loss": 0.0}  # type: ignore[arg-type]
