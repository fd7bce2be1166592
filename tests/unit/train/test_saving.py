"""What a save that fails means, and how often a run goes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.errors import CheckpointError
from fourm.train.checkpoint import CheckpointStore
from fourm.train.distributed import World
from fourm.train.guard import NotFiniteError
from fourm.train.ledger import LossLedger
from fourm.train.optimizer import build_optimizer
from fourm.train.saving import Saving
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState
from fourm.train.watch import Watch
from tests.unit.train.toy import ToyModel, toy_config


class Run:
    """A model whose checkpoints are saved, or not while `broken`."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.config = toy_config(**config)
        self.model, self.broken = ToyModel(), False
        self.store = CheckpointStore(folder, World())
        self.ledger = LossLedger(("even",), 10, World())
        optimizer = build_optimizer(self.model, self.config)
        self.snapshot = Snapshot(self.store, self.model, optimizer, None, self.config, {})
        save = self.store.save

        def may_break(*arguments: Any) -> None:
            if self.broken:
                raise CheckpointError("the disk is full")
            save(*arguments)

        self.store.save = may_break  # type: ignore[method-assign]
        self.saving = Saving(self.snapshot, self.ledger, self.config, Watch(None, print))

    def save(self, step: int, needed: bool = False) -> None:
        self.saving.save(RunState(step=step), needed=needed)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.store.folder.iterdir())  # type: ignore[union-attr]


@pytest.mark.parametrize(("policy", "needed"), [("stop", False), ("stop", True), ("continue", True)])
def test_a_failed_save_ends_the_run(tmp_path: Path, policy: str, needed: bool) -> None:
    run = Run(tmp_path, on_failed_save=policy)
    run.broken = True
    with pytest.raises(CheckpointError, match="the disk is full"):
        run.save(1, needed)


def test_a_failed_save_is_made_up_for_by_the_next_where_that_is_asked_for(tmp_path: Path) -> None:
    run = Run(tmp_path, on_failed_save="continue")
    run.broken = True
    run.save(1)
    run.broken = False
    run.save(2)
    assert run.names == ["step-00000002"]


def test_a_loss_that_is_not_finite_names_the_checkpoint_that_is_left(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(3)
    run.ledger.add(torch.tensor([float("nan"), 1.0]), [1.0])
    with pytest.raises(NotFiniteError, match=r"nan at step 4.*The last good checkpoint is .*step-00000003"):
        run.saving.read_losses(4)


def test_a_run_goes_back_as_often_as_it_may_between_two_saves(tmp_path: Path) -> None:
    run, error = Run(tmp_path, max_nan=2), NotFiniteError("the loss is nan")
    with pytest.raises(NotFiniteError):
        run.saving.go_back(error)  # there is nothing to go back to
    run.save(5)
    for _ in range(2):
        with torch.no_grad():
            run.model.embed.weight.add_(1.0)
        run.ledger.pending = [[1.0, 1.0, 1.0]]
        assert (run.saving.go_back(error).step, run.ledger.pending) == (5, [])
        assert torch.equal(run.model.embed.weight, ToyModel().embed.weight)
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        run.saving.go_back(error)
    run.save(6)
    assert run.saving.go_back(error).step == 6
