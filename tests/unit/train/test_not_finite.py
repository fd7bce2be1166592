"""A loss that is not a number: the run stops, leaves out the update, or goes back."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.errors import TrainingError
from fourm.objectives.base import Loss
from fourm.train.configs import OptimizerConfig, SpikeConfig
from fourm.train.distributed import World
from fourm.train.guard import Guard, NotFiniteError
from fourm.train.ledger import LossLedger
from fourm.train.signals import Interrupted
from fourm.train.tracking import read_log
from tests.unit.train.toy import ToyBatch, ToyLoader, ToyModel, ToyObjective, toy_config, toy_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


class Bad(ToyObjective):
    """Some calls, counted from 1, give a loss that is not a number."""

    def __init__(self, *calls: int) -> None:
        super().__init__()
        self.bad, self.call = calls, 0

    def loss(self, model: ToyModel, batch: ToyBatch) -> Loss:
        self.call += 1
        loss = super().loss(model, batch)
        if self.call in self.bad:
            value, count = loss.parts["odd"]
            loss.parts["odd"] = (value * float("nan"), count)  # type: ignore[index]
        return loss


class Exploding(ToyModel):
    """The gradient of one backward pass, counted from 1, is infinite; the loss is as ever."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.calls = itertools.count(1)
        weight = self.embed.weight
        weight.register_hook(lambda grad: torch.full_like(grad, torch.inf) if next(self.calls) == call else grad)


def steps(output: Path) -> list[tuple[int, float | None]]:
    return [(r["step"], r["loss"]) for r in read_log(output / "log.jsonl") if r["kind"] == "train"]


def run(output: Path, objective: ToyObjective, model: ToyModel | None = None, **config: Any) -> ToyModel:
    model = model or ToyModel()
    toy_trainer(output, toy_config(**{"max_steps": 12, **config}), model=model, objective=objective).fit()
    return model


def test_skip_leaves_out_the_update_and_nothing_else(tmp_path: Path) -> None:
    model = run(tmp_path, Bad(5), on_nan="skip")
    found = dict(steps(tmp_path))
    assert found[5] is None
    assert [r.get("skipped") for r in read_log(tmp_path / "log.jsonl")][4:6] == [1.0, None]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    run(tmp_path / "plain", ToyObjective(), on_nan="skip")
    plain = dict(steps(tmp_path / "plain"))
    assert [found[i] for i in range(1, 5)] == [plain[i] for i in range(1, 5)]
    assert found[6] != plain[6]  # the update of step 5 is missing


def test_skip_leaves_out_the_update_of_a_loss_whose_gradient_is_finite(tmp_path: Path) -> None:
    class Aside(Bad):
        """What is not a number is no part of the gradient."""

        def loss(self, model: ToyModel, batch: ToyBatch) -> Loss:
            fine = ToyObjective.loss(self, model, batch)
            self.call += 1
            if self.call in self.bad:
                value, count = fine.parts["odd"]
                fine.parts["odd"] = (value + torch.full_like(value, torch.nan).detach(), count)  # type: ignore[index]
            return fine

    aside = run(tmp_path / "aside", Aside(5), on_nan="skip")
    bad = run(tmp_path / "bad", Bad(5), on_nan="skip")
    for one, other in zip(aside.parameters(), bad.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_mean_of_a_record_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    run(tmp_path, Bad(2), on_nan="skip", max_steps=4, log_every_steps=4)
    run(tmp_path / "each", Bad(2), on_nan="skip", max_steps=4)
    good = [loss for _, loss in steps(tmp_path / "each") if loss is not None]
    assert steps(tmp_path) == [(4, pytest.approx(sum(good) / 3))]


def test_too_many_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nan at step 8"):
        run(tmp_path, Bad(*range(5, 30)), on_nan="skip", max_nan=3)
    world = World()
    book = LossLedger(("a",), 8, world, Guard(toy_config(on_nan="skip", max_nan=1), world))
    nan = float("nan")
    for value in (nan, 1.0, nan, 1.0):
        book.add(torch.tensor([value, value]), [1.0])
    book.read(4)  # two, but not in a row


def test_rollback_goes_back_to_the_checkpoint_and_on_with_the_next_data(tmp_path: Path) -> None:
    objective = Bad(8)
    model = run(tmp_path, objective, on_nan="rollback", save_every_steps=5)
    assert [step for step, _ in steps(tmp_path)] == list(range(1, 13))
    assert objective.call == 8 + 7  # steps 6 to 8 again, then 9 to 12
    assert all(loss is not None for _, loss in steps(tmp_path))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_rollback_is_the_run_that_never_saw_the_bad_data(tmp_path: Path) -> None:
    class Without(ToyLoader):
        """Leaves out micro-batches 6 to 8."""

        def __call__(self, cursor: dict[str, Any] | None) -> Any:
            for batch, after in super().__call__(cursor):
                if after["n"] not in (6, 7, 8):
                    yield batch, after

    run(tmp_path / "back", Bad(8), on_nan="rollback", save_every_steps=5)
    config = toy_config(max_steps=12)
    toy_trainer(tmp_path / "without", config, loader=Without(config, World())).fit()
    assert steps(tmp_path / "back") == steps(tmp_path / "without")


def test_rollback_before_the_first_checkpoint_goes_back_to_the_beginning(tmp_path: Path) -> None:
    objective = Bad(2)
    run(tmp_path, objective, on_nan="rollback")
    assert objective.call == 2 + 12


def test_rollbacks_that_help_nothing_end(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nan at step 6 "):
        run(tmp_path, Bad(*range(6, 100)), on_nan="rollback", max_nan=2, save_every_steps=5)


def test_after_a_rollback_the_speed_counts_from_there(tmp_path: Path) -> None:
    run(tmp_path, Bad(8), on_nan="rollback", max_nan=2, save_every_steps=5, log_every_steps=1)
    records = [r for r in read_log(tmp_path / "log.jsonl") if r["kind"] == "train"]
    assert min(r["tokens_per_second"] for r in records) > 0
    assert min(r["samples_per_second"] for r in records) > 0


def test_bad_steps_in_a_row_are_counted_across_a_resume(tmp_path: Path) -> None:
    config: dict[str, Any] = {"on_nan": "skip", "max_nan": 3}
    run(tmp_path, Bad(5, 6), max_steps=6, **config)
    (tmp_path / "completed.json").unlink()
    with pytest.raises(NotFiniteError, match="nan at step 8"):
        run(tmp_path, Bad(1, 2), **config)  # steps 7 and 8


def test_a_run_that_is_stopped_before_its_loss_is_read_goes_back_when_it_goes_on(tmp_path: Path) -> None:
    class Stopped(Bad):
        def loss(self, model: ToyModel, batch: ToyBatch) -> Loss:
            if self.call + 1 == 10:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(model, batch)

    config: dict[str, Any] = {"on_nan": "rollback", "log_every_steps": 7, "save_every_steps": 7, "max_steps": 14}
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", Stopped(9), **config)
    run(tmp_path / "parts", Bad(2), **config)
    run(tmp_path / "whole", Bad(9), **config)
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")


BY_RATIO: dict[str, Any] = {"spike": SpikeConfig(grad_ratio=20.0, window=6)}
CLIPPED: dict[str, Any] = {"optimizer": OptimizerConfig(lr=0.05, clip_grad=1.0)}


@pytest.mark.parametrize("config", [BY_RATIO, CLIPPED], ids=["spikes", "clipped"])
def test_stop_names_the_step_whose_gradient_is_not_finite(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(NotFiniteError, match="the gradient norm is inf at step 8"):
        run(tmp_path, ToyObjective(), Exploding(8), log_every_steps=4, **config)


def test_rollback_is_for_gradients_too_whatever_is_done_about_spikes(tmp_path: Path) -> None:
    model = Exploding(8)
    run(tmp_path, ToyObjective(), model, on_nan="rollback", save_every_steps=5, **BY_RATIO)
    assert next(model.calls) == 8 + 7 + 1  # steps 6 to 8 again, then 9 to 12
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_skip_is_for_gradients_too_whatever_is_done_about_spikes(tmp_path: Path) -> None:
    model = Exploding(8)
    run(tmp_path, ToyObjective(), model, on_nan="skip", on_spike="stop", **BY_RATIO)
    assert [step for step, loss in steps(tmp_path) if loss is None] == [8]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
