"""Steps that are finite and yet far from the others: the run leaves them out, stops, or goes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.errors import ConfigError, DataError, TrainingError
from fourm.train.configs import FreezeStage, OptimizerConfig, ScheduleConfig, SpikeConfig
from fourm.train.distributed import World
from fourm.train.guard import Guard, NotFiniteError, SpikeError
from fourm.train.signals import Interrupted
from fourm.train.tracking import read_log
from fourm.train.trainer import Trainer
from tests.unit.train.toy import ToyBatch, ToyLoader, ToyObjective, scale_losses, toy_config, toy_trainer

pytestmark = pytest.mark.usefixtures("one_thread")
BY_RATIO: dict[str, Any] = {"spike": SpikeConfig(grad_ratio=20.0, window=6)}
WAYS: list[dict[str, Any]] = [
    BY_RATIO,
    {"spike": SpikeConfig(loss_ratio=20.0, window=6)},
    {"spike": SpikeConfig(grad_norm=200.0)},
]


class Spiky(ToyLoader):
    """The loss of some micro-batches, counted from 1, is a thousand times too large; others are left out.

    While micro-batch `stop_at` is handed out, this process gets SIGTERM; after `end` there are none.
    """

    def __init__(
        self, *numbers: int, without: tuple[int, ...] = (), stop_at: int | None = None, end: int | None = None
    ) -> None:
        super().__init__(toy_config(), World(), end=end)
        self.numbers, self.without, self.stop_at, self.factor = numbers, without, stop_at, 1.0

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[tuple[ToyBatch, dict[str, Any]]]:
        for batch, after in super().__call__(cursor):
            self.factor = 1000.0 if after["n"] in self.numbers else 1.0
            if after["n"] == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if after["n"] not in self.without:
                yield batch, after


def fit(output: Path, loader: Spiky, **config: Any) -> Trainer:
    options = {"optimizer": OptimizerConfig(lr=0.01), "max_steps": 14, **config}
    objective = ToyObjective()
    scale_losses(objective, lambda: loader.factor)
    trainer = toy_trainer(output, toy_config(**options), loader=loader, objective=objective)
    trainer.fit()
    return trainer


def steps(output: Path) -> list[tuple[int, float | None, float | None]]:
    found = [r for r in read_log(output / "log.jsonl") if r["kind"] == "train"]
    return [(r["step"], r["loss"], r.get("skipped")) for r in found]


@pytest.mark.parametrize("way", WAYS, ids=["norm by ratio", "loss by ratio", "norm"])
def test_skip_leaves_out_the_update_and_counts_the_step(tmp_path: Path, way: dict[str, Any]) -> None:
    fit(tmp_path / "spike", Spiky(9), on_spike="skip", **way)
    fit(tmp_path / "plain", Spiky(), on_spike="skip", **way)
    found, plain = steps(tmp_path / "spike"), steps(tmp_path / "plain")
    assert found[:8] == plain[:8]
    assert found[8] == (9, None, 1.0)
    assert found[9][1] != plain[9][1]  # the update of step 9 is missing
    assert [skipped for _, _, skipped in plain] == [None] * 14
    assert max(loss for _, loss, _ in found if loss is not None) < 30


def test_an_update_that_is_skipped_leaves_weights_as_they_were(tmp_path: Path) -> None:
    def weights(loader: Spiky, steps: int) -> torch.Tensor:
        trainer = fit(
            tmp_path / str(steps),
            loader,
            on_spike="skip",
            max_steps=steps,
            schedule=ScheduleConfig("constant"),
            **BY_RATIO,
        )
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    assert torch.equal(weights(Spiky(9), 8), weights(Spiky(9), 9))
    assert not torch.equal(weights(Spiky(9), 9), weights(Spiky(9), 10))


@pytest.mark.parametrize("way", WAYS, ids=["norm by ratio", "loss by ratio", "norm"])
@pytest.mark.parametrize("log_every_steps", [1, 3])
def test_rollback_is_the_run_that_never_saw_the_spike(
    tmp_path: Path, way: dict[str, Any], log_every_steps: int
) -> None:
    config = {"log_every_steps": log_every_steps, "save_every_steps": 4, **way}
    fit(tmp_path / "back", Spiky(10), on_spike="rollback", **config)
    # It is noticed when losses are read, at step 10 or 12; then data after that are taken, from step 8 on.
    lost = (9, 10) if log_every_steps == 1 else (9, 10, 11, 12)
    fit(tmp_path / "without", Spiky(without=lost), on_spike="rollback", **config)
    assert steps(tmp_path / "back") == steps(tmp_path / "without")
    assert len(steps(tmp_path / "back")) == (14 if log_every_steps == 1 else 5)


def test_rollback_before_the_first_checkpoint_goes_back_to_the_beginning(tmp_path: Path) -> None:
    fit(tmp_path / "back", Spiky(7), on_spike="rollback", **BY_RATIO)
    fit(tmp_path / "without", Spiky(without=tuple(range(1, 8))), on_spike="rollback", **BY_RATIO)
    assert steps(tmp_path / "back") == steps(tmp_path / "without")


BEFORE_IT_IS_READ: dict[str, Any] = {"log_every_steps": 7, "save_every_steps": 7, **BY_RATIO}


def test_a_run_that_is_stopped_before_its_spike_is_read_goes_back_when_it_goes_on(tmp_path: Path) -> None:
    config = {"on_spike": "rollback", "max_steps": 21, **BEFORE_IT_IS_READ}
    whole = fit(tmp_path / "whole", Spiky(9), **config)
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path / "parts", Spiky(9, stop_at=10), **config)
    assert stopped.value.code == 143
    assert max(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()) == "step-00000007"
    resumed = fit(tmp_path / "parts", Spiky(9), **config)
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")
    assert resumed.state == whole.state


def test_a_run_that_is_stopped_before_its_spike_is_read_fails_where_spikes_end_it(tmp_path: Path) -> None:
    with pytest.raises(SpikeError, match="at step 9"):
        fit(tmp_path, Spiky(9, stop_at=10), on_spike="stop", **BEFORE_IT_IS_READ)


@pytest.mark.parametrize("on_spike", ["stop", "rollback"])
def test_a_spike_does_not_hide_that_the_loader_failed(tmp_path: Path, on_spike: str) -> None:
    with pytest.raises(DataError, match="the loader ended after step 10"):
        fit(tmp_path, Spiky(9, end=10), on_spike=on_spike, **BEFORE_IT_IS_READ)
    assert not list(tmp_path.glob("checkpoints/step-00000010"))


@pytest.mark.parametrize(
    ("way", "message"),
    zip(
        WAYS,
        [
            r"the gradient norm is \d+ at step 9, \d+\.\d times the median of the 6 steps before\. The last good check",
            r"the loss is \d+ at step 9, \d+\.\d times the median of the 6 steps before\. The last good checkpoint is",
            r"the gradient norm is \d+ at step 9, where 200 is too much\. The last good checkpoint is .*step-00000008",
        ],
        strict=True,
    ),
    ids=["norm by ratio", "loss by ratio", "norm"],
)
def test_stop_says_what_the_spike_was_and_keeps_the_checkpoint_before(
    tmp_path: Path, way: dict[str, Any], message: str
) -> None:
    way = {"save_every_steps": 4, "optimizer": OptimizerConfig(lr=1e-3), **way}
    with pytest.raises(SpikeError, match=message):
        fit(tmp_path, Spiky(9), on_spike="stop", **way)
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert (last["kind"], last["error"], last["step"]) == ("end", "SpikeError", 9)


def test_too_many_spikes_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="where 200 is too much"):
        fit(tmp_path / "skip", Spiky(8, 9, 10), on_spike="skip", max_nan=2, **WAYS[2])
    fit(tmp_path / "apart", Spiky(8, 9, 11, 12), on_spike="skip", max_nan=2, **WAYS[2])
    with pytest.raises(TrainingError, match="at step 7"):
        fit(tmp_path / "back", Spiky(*range(7, 99)), on_spike="rollback", max_nan=2, save_every_steps=6, **WAYS[2])


def test_a_resumed_run_knows_what_norms_and_losses_were_before(tmp_path: Path) -> None:
    spike = SpikeConfig(grad_ratio=20.0, loss_ratio=50.0, window=6)
    whole = fit(tmp_path / "whole", Spiky(9), on_spike="skip", spike=spike)
    fit(tmp_path / "parts", Spiky(9), on_spike="skip", spike=spike, max_steps=8, schedule=whole.config.schedule)
    (tmp_path / "parts" / "completed.json").unlink()
    resumed = fit(tmp_path / "parts", Spiky(9), on_spike="skip", spike=spike)
    assert next(s for s in steps(tmp_path / "parts") if s[0] > 8) == (9, None, 1.0)
    assert resumed._guard is not None
    assert whole._guard is not None
    state = resumed._guard.state()
    assert len(state["grad_norm"]) == len(state["loss"]) == 6
    assert None not in state["grad_norm"]


def test_the_state_goes_out_and_in_exactly_and_not_into_another_window() -> None:
    def guard(window: int = 4) -> Guard:
        return Guard(toy_config(spike=SpikeConfig(grad_ratio=10.0, window=window)), World())

    one, other = guard(), guard()
    for step, norm in enumerate([0.1, 0.7, float("nan")]):
        one.leaves_out(torch.tensor(norm), torch.tensor(1.0), step)
    for _ in range(2):
        one.tolerates(SpikeError("the gradient is too long"))
    assert one.state() == {"grad_norm": [pytest.approx(0.1), pytest.approx(0.7), None, None], "in_a_row": 2}
    other.set_state(one.state())
    assert other.state() == one.state()
    other = guard(6)
    other.set_state(one.state())
    assert other.state() == {"grad_norm": [None] * 6, "in_a_row": 2}
    other.set_state({"grad_norm": [1.0] * 6})  # of an earlier version
    assert other.state() == {"grad_norm": [1.0] * 6, "in_a_row": 0}


def test_a_ratio_waits_for_half_of_the_window() -> None:
    guard = Guard(toy_config(spike=SpikeConfig(grad_ratio=10.0, window=4)), World())

    def judged(norm: float, step: int) -> bool:
        return bool(guard.leaves_out(torch.tensor(norm), torch.tensor(1.0), step))

    assert [judged(norm, step) for step, norm in enumerate([1.0, 100.0, 101.0, 99.0])] == [False, False, False, False]
    guard.restart()
    found = [judged(norm, step) for step, norm in enumerate([1.0, 2.0, 21.0, 19.0, 1.0, float("inf")])]
    assert found == [False, False, True, False, False, False]  # what is not finite is for on_nan
    error = guard.error(guard.found.tolist(), 1.0, 6)
    assert isinstance(error, NotFiniteError)
    assert str(error) == "the gradient norm is inf at step 6"


def test_a_new_level_of_norms_is_taken_for_usual_after_a_while() -> None:
    guard = Guard(toy_config(spike=SpikeConfig(grad_ratio=10.0, window=4)), World())
    norms = [1.0] * 4 + [50.0] * 4
    found = [bool(guard.leaves_out(torch.tensor(n), torch.tensor(1.0), i)) for i, n in enumerate(norms)]
    assert found == [False] * 4 + [True, True, True, False]


def test_norms_before_the_end_of_a_stage_are_forgotten(tmp_path: Path) -> None:
    stages = [FreezeStage(until_steps=8, trainable=["heads.even.bias"])]
    spike = SpikeConfig(grad_ratio=1000.0, window=4)
    trainer = fit(tmp_path, Spiky(), on_spike="stop", spike=spike, stages=stages, max_steps=9)
    assert trainer._guard is not None
    assert sum(norm is None for norm in trainer._guard.state()["grad_norm"]) == 3


def test_skip_grad_is_what_it_was(tmp_path: Path) -> None:
    fit(tmp_path / "old", Spiky(9), optimizer=OptimizerConfig(lr=0.01, skip_grad=200.0))
    fit(tmp_path / "new", Spiky(9), **WAYS[2])
    assert steps(tmp_path / "old") == steps(tmp_path / "new")
    assert steps(tmp_path / "old")[8] == (9, None, 1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"on_spike": "stop"}, "nothing says what a spike is"),
        ({"on_spike": "stop", "optimizer": OptimizerConfig(skip_grad=1.0)}, "set it to null"),
        ({"spike": SpikeConfig(grad_norm=2.0), "optimizer": OptimizerConfig(skip_grad=1.0)}, "set it to null"),
    ],
)
def test_what_contradicts_itself_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_config(**config).check()


@pytest.mark.parametrize("options", [{"grad_ratio": 1.0}, {"loss_ratio": 0.5}, {"window": 1}, {"grad_norm": 0.0}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SpikeConfig(**options)
