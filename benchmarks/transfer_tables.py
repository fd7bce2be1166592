"""Tables of `benchmarks/transfer.py` for docs/transfer.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from study import table

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Run -> seed -> `metrics` and `seconds`."""


class Metric(NamedTuple):
    """How a metric is shown.

    Args:
        key: among a run's metrics.
        title: in the table.
        factor: 100 for shares that are shown in percent.
        digits: behind the point.
        better: 1 if more of it is better, -1 if less.
    """

    key: str
    title: str
    factor: float = 100.0
    digits: int = 1
    better: int = 1


MIOU = Metric("miou", "mIoU, %")
TOP1 = Metric("top1", "top-1, %")
ROOMS = (
    ("segmentation", "semseg", MIOU),
    ("segmentation of RGB + depth", "semseg_rgbd", MIOU),
    ("depth", "depth", Metric("abs_rel", "abs_rel", 1.0, 4, -1)),
    ("depth", "depth", Metric("delta1", "delta1, %")),
    ("normals", "normal", Metric("mean_angle", "mean angle, degrees", 1.0, 2, -1)),
    ("detection", "detection", Metric("box_ap", "box AP, %")),
    ("detection", "detection", Metric("box_ap50", "box AP50, %")),
    ("instance segmentation", "detection", Metric("mask_ap", "mask AP, %")),
)
INPUTS = (
    ("RGB", "semseg/pretrained"),
    ("RGB + depth", "semseg_rgbd/pretrained"),
    ("RGB + depth, measured without depth", "semseg_rgbd/without_depth"),
    ("RGB + depth predicted by the model", "semseg_predicted_depth/pretrained"),
)
PROBES = ("linear_probe", "attentive_probe", "nearest_neighbours", "fine_tuned_longer")


def tables(results: Results) -> str:
    """Markdown of all that is there: means and standard deviations over seeds."""
    rooms = [
        _versus(results, title, f"rooms/{task}", metric)
        for title, task, metric in ROOMS
        if {f"rooms/{task}/pretrained", f"rooms/{task}/scratch"} <= results.keys()
    ]
    inputs = [[title, _cell(results, f"rooms/{name}", MIOU)] for title, name in INPUTS if f"rooms/{name}" in results]
    labels = sorted({name.split("/")[1] for name in results if name.startswith("fashion/")}, key=_number)
    fashion = [_versus(results, f"{_number(name):,} labels", f"fashion/{name}", TOP1) for name in labels]
    probes = [
        [name.replace("_", " "), _cell(results, f"fashion/{all_of}/{name}", TOP1)]
        for all_of in labels[-1:]
        for name in PROBES
    ]
    versus = ("metric", "pretrained", "from scratch", "better in", "seconds a run")
    return "\n\n".join(
        [
            table(("rooms", *versus), rooms),
            table(("input of the pretrained network", "segmentation of rooms, mIoU, %"), inputs),
            table(("Fashion-MNIST", *versus), fashion),
            table(("all labels, a frozen encoder, or all of it for 2,400 steps", "top-1, %"), probes),
            "Seconds are by the clock, several runs at a time beside other work. " + _longest(results),
        ]
    )


def _versus(results: Results, title: str, name: str, metric: Metric) -> list[str]:
    """A row that compares a pretrained network with the same one from scratch, seed by seed."""
    own, other = (results.get(f"{name}/{variant}", {}) for variant in ("pretrained", "scratch"))
    both = [seed for seed in own if seed in other]
    gains = [metric.better * (_value(own[seed], metric) - _value(other[seed], metric)) for seed in both]
    seconds = [entry["seconds"] for entries in (own, other) for entry in entries.values()]
    return [
        title, metric.title, _cell(results, f"{name}/pretrained", metric), _cell(results, f"{name}/scratch", metric),
        f"{sum(gain > 0 for gain in gains)} of {len(gains)} seeds" if gains else "-",
        f"{sum(seconds) / len(seconds):.0f}" if seconds else "-",
    ]  # fmt: skip


def _cell(results: Results, name: str, metric: Metric) -> str:
    values = [metric.factor * _value(entry, metric) for entry in results.get(name, {}).values()]
    if not values:
        return "-"
    mean = sum(values) / len(values)
    shown = f"{mean:.{metric.digits}f}"
    if len(values) == 1:
        return shown
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{shown} ± {spread:.{metric.digits}f}"


def _value(entry: Mapping[str, Any], metric: Metric) -> float:
    return float(entry["metrics"][metric.key])


def _longest(results: Results) -> str:
    measured = {
        entry["processor_seconds"]: name
        for name, seeds in results.items()
        for entry in seeds.values()
        if name.startswith("rooms/") and "processor_seconds" in entry
    }
    if not measured:
        return "The processor time of runs is kept from the next one on."
    most = max(measured)
    return f"Of processor time, the longest run on rooms that was measured, {measured[most]}, took {most:.0f} seconds."


def _number(name: str) -> int:
    return int(name.partition("_")[0])
