"""Where a run stands, and the mark of a complete one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from fourm.train.configs import TrainConfig
from fourm.train.state import COMPLETED, RunState, completed_state, mark_complete

CONFIG = TrainConfig(max_steps=4, batch_size=4)


def test_the_mark_gives_back_the_last_state(tmp_path: Path) -> None:
    state = RunState(step=4, tokens=9, cursor={"epoch": 1}, metrics={"loss": 2.0}, best={"loss": 1.5, "step": 2})
    mark_complete(tmp_path, state, CONFIG)

    assert completed_state(tmp_path, CONFIG) == state
    assert completed_state(tmp_path / "other", CONFIG) is None


def test_a_mark_of_a_shorter_run_or_another_unit_does_not_count(tmp_path: Path) -> None:
    mark_complete(tmp_path, RunState(step=4), CONFIG)

    assert completed_state(tmp_path, TrainConfig(max_steps=5, batch_size=4)) is None
    assert completed_state(tmp_path, TrainConfig(max_tokens=4, batch_size=4)) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"unit": "steps", "length": "x"}'])
def test_a_damaged_mark_counts_as_none_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / COMPLETED).write_bytes(content)

    with caplog.at_level(logging.WARNING):
        assert completed_state(tmp_path, CONFIG) is None

    assert f"{tmp_path / COMPLETED} is damaged" in caplog.text


def test_a_mark_that_lacks_part_of_the_state_is_damaged(tmp_path: Path) -> None:
    mark_complete(tmp_path, RunState(step=4), CONFIG)
    record = json.loads((tmp_path / COMPLETED).read_text())
    del record["cursor"]
    (tmp_path / COMPLETED).write_text(json.dumps(record))

    assert completed_state(tmp_path, CONFIG) is None


def test_the_best_evaluation_is_kept() -> None:
    state = RunState()
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        state.step = step
        state.evaluated({"loss": loss}, "loss")

    assert state.metrics == {"loss": 2.0}
    assert state.best == {"loss": 1.0, "step": 2}
