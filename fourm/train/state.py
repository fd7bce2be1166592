"""Where a run stands, and the mark of a complete one."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm.train.configs import TrainConfig
from fourm.train.publish import write_json

COMPLETED = "completed.json"
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class RunState:
    """Where a run stands, apart from its tensors.

    Args:
        step: optimizer steps done.
        tokens: tokens passed, over all ranks.
        cursor: where the loader goes on.
        metrics: results of the last evaluation.
        best: lowest `best_metric` so far and its step.
    """

    step: int = 0
    tokens: int = 0
    cursor: dict[str, Any] | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunState:
        """The state inside a checkpoint's record or a completion mark."""
        return cls(**{field.name: record[field.name] for field in dataclasses.fields(cls)})

    def evaluated(self, metrics: dict[str, float], best_metric: str) -> None:
        """Note the results of an evaluation at the present step."""
        self.metrics = metrics
        value = metrics.get(best_metric)
        if value is not None and value < self.best.get(best_metric, float("inf")):
            self.best = {best_metric: value, "step": self.step}


def mark_complete(output: Path, state: RunState, config: TrainConfig) -> None:
    """Write `completed.json`.

    Raises:
        CheckpointError: if it cannot be written.
    """
    write_json(output / COMPLETED, {"unit": config.unit, "length": config.length, **dataclasses.asdict(state)})


def completed_state(output: Path, config: TrainConfig) -> RunState | None:
    """The last state of a run that already went as far as the recipe asks; None if there is still something to do.

    A damaged mark counts as none: the run goes on from its newest checkpoint and writes it again.
    """
    path = output / COMPLETED
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["unit"] != config.unit or record["length"] < config.length:
            return None
        return RunState.from_record(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOG.warning("%s is damaged (%s: %s), so the run counts as not complete", path, type(error).__name__, error)
        return None
