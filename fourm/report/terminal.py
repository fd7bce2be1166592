"""Training runs in a terminal: how they stand, their losses as curves, and what every modality does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fourm.report.braille import plot, sparkline
from fourm.report.plots import running_mean
from fourm.report.runs import Run, is_number, numbers_of

COLORS = ("cyan", "yellow", "green", "magenta", "blue", "red", "white")
_HEIGHT = 12
_EDGE = 10  # letters left of a curve
_FIGURES = {
    "loss": ("loss", "{:.4f}"),
    "lr": ("lr", "{:.2e}"),
    "grad_norm": ("grad", "{:.3g}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "samples_per_second": ("samples/s", "{:,.1f}"),
    "mfu": ("MFU", "{:.1%}"),
    "data_wait": ("data wait", "{:.1%}"),
    "memory_gib": ("GiB", "{:.1f}"),
}


def drawn(runs: Sequence[Run], width: int = 100, smooth: int = 1) -> RenderableType:
    """Everything about some runs, for rich to print.

    Args:
        runs: drawn in one colour each.
        width: of the terminal, in letters.
        smooth: records of the running mean.
    """
    parts: list[RenderableType] = [_standing(runs)]
    for kind, title in (("train", "training loss"), ("eval", "held-out loss")):
        if any(len(run.series(kind, "loss")[0]) > 1 for run in runs):
            parts.append(_curves(runs, kind, title, width, smooth))
    names = numbers_of(runs, "train", "loss/")
    if names:
        parts.append(_by_modality(runs, names))
    return Group(*parts)


def _standing(runs: Sequence[Run]) -> Table:
    """One line per run."""
    shown = [key for key in _FIGURES if any(key in run.last() for run in runs)]
    table = Table("run", "step", "tokens", *(_FIGURES[key][0] for key in shown), "state", box=None, header_style="bold")
    for number, run in enumerate(runs):
        last = run.last()
        figures = [_FIGURES[key][1].format(last[key]) if is_number(last.get(key)) else "" for key in shown]
        tokens = f"{last['tokens']:,}" if is_number(last.get("tokens")) else ""
        table.add_row(Text(run.name, _color(number)), str(last.get("step", "")), tokens, *figures, Text(run.state()))
    return table


def _curves(runs: Sequence[Run], kind: str, title: str, width: int, smooth: int) -> Panel:
    curves = []
    for run in runs:
        x, y = run.series(kind, "loss")
        curves.append((x, running_mean(np.asarray(y, float), smooth).tolist() if smooth > 1 else y))
    lines, (left, right, bottom, top) = plot(curves, max(20, width - _EDGE - 6), _HEIGHT)
    text = Text()
    for number, line in enumerate(lines):
        edge = {0: f"{top:.4g}", len(lines) - 1: f"{bottom:.4g}"}.get(number, "")
        text.append(f"{edge:>{_EDGE}} ")
        for letter, owner in line:
            text.append(letter, _color(owner) if owner >= 0 else "")
        text.append("\n")
    text.append(f"{'':>{_EDGE}} {left:.0f}{f'{right:.0f}':>{max(1, len(lines[0]) - len(f'{left:.0f}'))}}")
    return Panel(text, title=title, title_align="left")


def _by_modality(runs: Sequence[Run], names: Sequence[str]) -> Table:
    table = Table("training loss of", box=None, header_style="bold")
    for number, run in enumerate(runs):
        table.add_column(Text(run.name, _color(number)))
    for name in names:
        cells = []
        for number, run in enumerate(runs):
            values = run.series("train", name)[1]
            cells.append(Text(f"{values[-1]:.4f} {sparkline(values, 16)}" if values else "", _color(number)))
        table.add_row(name.removeprefix("loss/"), *cells)
    return table


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]
