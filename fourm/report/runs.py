"""What training runs wrote about themselves: their logs, and how they stand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.errors import ConfigError

LOG_NAME = "log.jsonl"
_QUIET_SECONDS = 600.0


@dataclass(frozen=True)
class Run:
    """One run and the records of its log.

    Args:
        name: what tells it from the others that are shown.
        path: its log.
        records: lines of kind `train`, `eval` and `end`, in order.
        complete: whether it has come to its end.
        changed: when the log was written to, in seconds since 1970.
    """

    name: str
    path: Path
    records: list[dict[str, Any]]
    complete: bool
    changed: float

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of a number, where it is there."""
        points = [(r["step"], r[key]) for r in self.records if r.get("kind") == kind and is_number(r.get(key))]
        return [float(step) for step, _ in points], [float(value) for _, value in points]

    def last(self, kind: str = "train") -> dict[str, Any]:
        """The newest record of a kind; empty if there is none."""
        return next((record for record in reversed(self.records) if record.get("kind") == kind), {})

    def state(self, now: float | None = None) -> str:
        """In words: complete, why it ended, or when it last wrote."""
        if self.complete:
            return "complete"
        if self.records and self.records[-1].get("kind") == "end":
            end = self.records[-1]
            return f"ended at step {end.get('step')}: {end.get('error')}: {end.get('reason')}"
        silent = (time.time() if now is None else now) - self.changed
        return "running" if silent < _QUIET_SECONDS else f"silent for {silent / 60:.0f} minutes"


def is_number(value: Any) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a line cut short by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and is_number(record.get("step")):
            records.append(record)
    return records


def load_runs(places: Sequence[Path]) -> list[Run]:
    """The runs in some folders.

    Args:
        places: folders of runs, folders of folders of runs, or logs.

    Raises:
        ConfigError: if one holds no log.
    """
    logs = list({log.resolve(): log for place in places for log in _logs(place)}.values())
    return [_load(name, log) for name, log in zip(_short_names(logs), logs, strict=True)]


def _load(name: str, log: Path) -> Run:
    records = read_log(log)
    return Run(name, log, records, _is_complete(log.parent / "completed.json", records), log.stat().st_mtime)


def _is_complete(mark: Path, records: Sequence[dict[str, Any]]) -> bool:
    """Whether a run has come to its end, and has not gone on from there since, to a later one."""
    try:
        last = json.loads(mark.read_text(encoding="utf-8", errors="replace")).get("step")
    except (OSError, ValueError, AttributeError):
        return False
    return not (is_number(last) and records and records[-1]["step"] > last)


def _logs(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    own = place / LOG_NAME
    found = [own] if own.is_file() else sorted(place.glob(f"*/{LOG_NAME}")) or sorted(place.glob(f"*/*/{LOG_NAME}"))
    if not found:
        raise ConfigError(
            f"{place} holds no {LOG_NAME}, which training writes into its output folder: give that folder, or one that "
            "holds several of them"
        )
    return found


def _short_names(logs: Iterable[Path]) -> list[str]:
    """The last parts of the folders of logs, as many as tell them apart; a log of another name has that, too."""
    named = [log.absolute() for log in logs]
    parts = [log.parts if log.name != LOG_NAME else log.parent.parts for log in named]
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]


def numbers_of(runs: Sequence[Run], kind: str, prefix: str = "") -> list[str]:
    """Names of the numbers that some run has in records of a kind, in the order in which they come."""
    names: dict[str, None] = {}
    for run in runs:
        for record in run.records:
            if record.get("kind") == kind:
                names |= {
                    k: None for k, v in record.items() if k.startswith(prefix) and k not in names and is_number(v)
                }
    return [name for name in names if name not in ("step", "kind")]
