"""What all training jobs begin with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fourm.models.multimodal import Multimodal
from fourm.objectives.masked import Masked
from fourm.recipe.build import is_complete
from fourm.registry import implementation
from fourm.train.state import RunState, mark_complete
from tests.unit.recipe.conftest import recipe


def test_configs_name_their_implementation() -> None:
    small = recipe()

    assert implementation(small.model.target) is Multimodal
    assert implementation(small.objective.target) is Masked


def test_a_complete_run_says_so_and_how_to_train_on(tmp_path: Path, caplog: Any) -> None:
    done = recipe(output=str(tmp_path))
    mark_complete(tmp_path, RunState(step=4), done.train)

    with caplog.at_level(logging.INFO):
        assert is_complete(done)

    assert "complete run of 4 steps" in caplog.text
    assert "train.max_steps" in caplog.text


def test_a_run_that_was_shorter_or_is_to_start_afresh_is_not_complete(tmp_path: Path) -> None:
    mark_complete(tmp_path, RunState(step=4), recipe().train)

    assert not is_complete(recipe(output=str(tmp_path), train={"max_steps": 5, "batch_size": 4}))
    assert not is_complete(recipe(output=str(tmp_path), train={"max_steps": 4, "batch_size": 4, "resume": "never"}))
    assert not is_complete(recipe(output=str(tmp_path / "other")))
