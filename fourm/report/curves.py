"""Training runs on a page: every number of their logs as a curve, the runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from fourm.report import plots
from fourm.report.html import Page
from fourm.report.runs import Run, is_number, numbers_of

_SPEED = {
    "tokens_per_second": "tokens per second",
    "samples_per_second": "samples per second",
    "mfu": "model FLOPs utilisation",
    "data_wait": "share of time that waits for data",
    "memory_gib": "memory, GiB",
}
_COURSE = {"lr": "learning rate", "grad_norm": "gradient norm"}


def page_of(runs: Sequence[Run], smooth: int = 1) -> Page:
    """The page of some runs.

    Args:
        runs: one colour each, the same in all charts.
        smooth: records of the running mean.
    """
    page = Page(" and ".join(run.name for run in runs[:3]) + (" and others" if len(runs) > 3 else ""))
    page.section("How they stand" if len(runs) > 1 else "How it stands")
    page.table(("run", "step", "tokens", "loss", "held out", "state"), [_standing(run) for run in runs])
    page.section("Loss")
    _charts(page, runs, "train", {"loss": "training"}, smooth)
    _charts(page, runs, "eval", {name: f"held out, {name}" for name in numbers_of(runs, "eval") if name == "loss"}, 1)
    for kind, title in (("train", "training"), ("eval", "held out")):
        names = {name: f"{name.removeprefix('loss/')}, {title}" for name in numbers_of(runs, kind, "loss/")}
        if names:
            page.section(f"Loss by modality, {title}")
            _charts(page, runs, kind, names, smooth if kind == "train" else 1)
    page.section("Course")
    _charts(page, runs, "train", _COURSE, 1)
    page.section("Speed and memory")
    _charts(page, runs, "train", _SPEED, smooth)
    known = ("loss", "tokens", *(name for name in numbers_of(runs, "eval") if name.startswith("loss/")))
    others = {name: name for name in numbers_of(runs, "eval") if name not in known}
    if others:
        page.section("Other results of evaluations")
        _charts(page, runs, "eval", others, 1)
    return page


def _standing(run: Run) -> list[str]:
    last, held_out = run.last(), run.last("eval")
    return [
        run.name,
        str(last.get("step", "")),
        f"{last['tokens']:,}" if is_number(last.get("tokens")) else "",
        *(f"{record['loss']:.4f}" if is_number(record.get("loss")) else "" for record in (last, held_out)),
        run.state(),
    ]


def _charts(page: Page, runs: Sequence[Run], kind: str, names: dict[str, str], smooth: int) -> None:
    charts = []
    for name, title in names.items():
        series = {run.name: found for run in runs if len((found := run.series(kind, name))[0]) > 0}
        if series:
            charts.append(plots.curves(series, title=title, y_label="", smooth=smooth, size=(4.8, 2.8)))
    if charts:
        page.charts(*charts)
