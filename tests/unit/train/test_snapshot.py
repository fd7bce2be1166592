"""What goes into a checkpoint comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.errors import CheckpointError, ConfigError, TrainingError
from fourm.train.checkpoint import CheckpointStore
from fourm.train.distributed import World
from fourm.train.ema import WeightAverage
from fourm.train.optimizer import build_optimizer
from fourm.train.record import read_record
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState
from tests.unit.train.toy import ToyModel, toy_config


class Run:
    """A model with everything that a checkpoint holds of it."""

    def __init__(
        self, folder: Path, *, average: bool = False, metadata: Any = None, read_recipe: Any = None, **config: Any
    ) -> None:
        self.model, self.config = ToyModel(), toy_config(**config)
        self.optimizer = build_optimizer(self.model, self.config)
        self.average = WeightAverage(self.model, 0.5) if average else None
        store = CheckpointStore(folder, World())
        self.snapshot = Snapshot(
            store, self.model, self.optimizer, self.average, self.config, metadata or {}, read_recipe
        )

    def step(self) -> None:
        self.model.answer("odd", torch.tensor([1, 3])).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(0)


def test_weights_moments_and_state_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step()
    run.snapshot.save(RunState(step=1, tokens=2, cursor={"n": 1}), [[0.5, 0.25]])

    again = Run(tmp_path)
    state, pending = again.snapshot.resume()

    assert (state, pending) == (RunState(step=1, tokens=2, cursor={"n": 1}), [[0.5, 0.25]])
    run.step()
    again.step()
    for ours, theirs in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_a_checkpoint_a_run_begins(tmp_path: Path) -> None:
    assert Run(tmp_path).snapshot.resume() == (RunState(), [])


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.snapshot.save(RunState(step=1, tokens=2), [])
    run.snapshot.save(RunState(step=1, tokens=99), [])
    assert read_record(tmp_path / "step-00000001")["tokens"] == 2


def test_the_running_mean_is_kept_and_starts_from_the_weights_where_there_was_none(tmp_path: Path) -> None:
    run = Run(tmp_path / "with", average=True)
    run.step()
    run.snapshot.save(RunState(step=1), [])
    again = Run(tmp_path / "with", average=True)
    again.snapshot.resume()
    assert run.average is not None
    assert again.average is not None
    torch.testing.assert_close(again.average.mean, run.average.mean, rtol=0, atol=0)

    plain = Run(tmp_path / "without")
    plain.step()
    plain.snapshot.save(RunState(step=1), [])
    later = Run(tmp_path / "without", average=True)
    later.snapshot.resume()
    assert later.average is not None
    assert torch.equal(later.average.mean["embed.weight"], plain.model.embed.weight)


def test_a_fresh_folder_is_wanted_where_the_recipe_says_so(tmp_path: Path) -> None:
    Run(tmp_path).snapshot.save(RunState(step=1), [])
    with pytest.raises(ConfigError, match="train.resume is never, but .*holds step-00000001"):
        Run(tmp_path, resume="never").snapshot.resume()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with torch.no_grad():
        run.model.embed.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not finite after step 1"):
        run.snapshot.save(RunState(step=1), [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({"recipe": {"model": {"dim": 8}}}, {"recipe": {"model": {"dim": 9}}}, r"recipe\.model\.dim: 8 -> 9"),
        ({"tokenizers": {"text": "a"}}, {"tokenizers": {"text": "b"}}, "other tokenizers of text"),
    ],
)
def test_another_model_or_tokenizer_is_refused_unless_it_is_meant(
    tmp_path: Path, before: Any, after: Any, named: str
) -> None:
    Run(tmp_path, metadata=before).snapshot.save(RunState(step=1), [])

    with pytest.raises(CheckpointError, match=named):
        Run(tmp_path, metadata=after).snapshot.resume()
    assert Run(tmp_path, metadata=before).snapshot.resume()[0].step == 1
    assert Run(tmp_path, metadata=after, allow_changed_recipe=True).snapshot.resume()[0].step == 1


def test_keys_that_an_earlier_version_had_not_count_as_their_defaults(tmp_path: Path) -> None:
    Run(tmp_path, metadata={"recipe": {"model": {"dim": 8}}}).snapshot.save(RunState(step=1), [])
    later = {"recipe": {"model": {"dim": 8, "heads": 2}}}
    with pytest.raises(CheckpointError, match=r"recipe\.model\.heads: None -> 2"):
        Run(tmp_path, metadata=later).snapshot.resume()
    filled = Run(tmp_path, metadata=later, read_recipe=lambda saved: {"model": {"heads": 2, **saved["model"]}})
    assert filled.snapshot.resume()[0].step == 1
