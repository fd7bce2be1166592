"""Two ranks with half a batch each have the loss and gradients of one process with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from fourm.objectives.contrastive import ContrastiveObjective
from fourm.objectives.contrastive_config import ContrastiveObjectiveConfig
from fourm.rng import generator
from tests.unit.train import toy_contrastive

NUM = 12
LOSSES = ("softmax", "sigmoid")


def scored(loss: Any, part: slice) -> dict[str, torch.Tensor]:
    """Loss and gradients of a part of the batch, as its share of those of the whole batch."""
    config = ContrastiveObjectiveConfig([("image", "caption"), ("image", "depth")], loss=loss)
    objective = ContrastiveObjective(config, toy_contrastive.MODALITIES)
    model = toy_contrastive.model().train()
    items = [
        objective.prepare(toy_contrastive.Said().sample(n, generator(n)), generator(0))
        for n in (0, 1, 2, 3, 4, 5, 8, 9, 10, 13, 14, 15)
    ]
    totals = objective.counts(objective.collate(items))
    share = objective.loss(model, objective.collate(items[part])).scalar(totals)
    share.backward()
    return {"loss": share.detach(), **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([scored(loss, slice(6 * rank, 6 * rank + 6)) for loss in LOSSES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, torch.Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("number", range(len(LOSSES)), ids=LOSSES)
def test_two_ranks_are_one_process_with_both_halves(ranks: Any, number: int) -> None:
    alone = scored(LOSSES[number], slice(0, NUM))

    assert len(alone) > 20
    assert ranks[0][number]["loss"] != ranks[1][number]["loss"]
    for name, expected in alone.items():
        found = ranks[0][number][name] + ranks[1][number][name]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_halves_that_know_nothing_of_one_another_have_another_loss() -> None:
    halves = sum(scored("softmax", slice(n, n + 6))["loss"] for n in (0, 6))

    assert abs(halves - scored("softmax", slice(0, NUM))["loss"]) > 0.1
