"""Charts as SVG text: the same numbers give the same bytes, and the text takes the colour of the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from fourm.report.colors import Array

SERIES_COLORS = ("#3b6fd4", "#e0762f", "#2f9e6e", "#c2447a", "#8a63d2", "#a8892c", "#2a9db5", "#7a7f87")
"""Distinct on light and dark pages; the order is the order of the series."""

# Drawn in this colour and then replaced by `currentColor`: matplotlib only knows fixed colours.
_TEXT = "#010203"
_STYLE: Any = {
    "svg.hashsalt": "fourm",  # ids would be random otherwise
    "svg.fonttype": "none",  # letters stay letters: small files, and a search finds them
    "font.size": 10.0,
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": _TEXT,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "",
    x_label: str = "step",
    y_label: str = "loss",
    smooth: int = 1,
    log_y: bool = False,
    reference: Mapping[str, float] | None = None,
    size: tuple[float, float] = (6.4, 3.4),
) -> str:
    """Learning curves.

    Args:
        series: name -> (x, y); values that are not finite interrupt the line.
        title: above the chart.
        x_label: below the chart.
        y_label: left of the chart.
        smooth: width of a running mean in points; the raw values then stay visible as a faint line.
        log_y: logarithmic vertical axis.
        reference: name -> value of dashed horizontal lines, such as a baseline.
        size: inches, 72 points each.

    Returns:
        SVG text, without an XML declaration, ready to be put into a page.
    """
    with _Chart(size, title, x_label, y_label) as chart:
        for number, (name, (x, y)) in enumerate(series.items()):
            color = SERIES_COLORS[number % len(SERIES_COLORS)]
            xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
            if smooth > 1 and len(ys) > smooth:
                chart.axes.plot(xs, ys, color=color, linewidth=0.8, alpha=0.25)
                ys = running_mean(ys, smooth)
            marker = "o" if len(xs) == 1 else None
            chart.axes.plot(xs, ys, color=color, linewidth=1.8, label=name, marker=marker)
        for name, value in (reference or {}).items():
            chart.axes.axhline(value, color=_TEXT, alpha=0.55, linewidth=1.1, linestyle=(0, (4, 3)))
            chart.axes.annotate(
                name, (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8.5, alpha=0.8
            )
        if log_y:
            chart.log_scale()
        return chart.svg(legend=bool(series))


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    y_label: str = "",
    size: tuple[float, float] = (6.4, 3.2),
) -> str:
    """A bar per group and series, with its value above it.

    Args:
        groups: names below the bars.
        series: name -> one value per group; not finite values leave a gap.
        title: above the chart.
        y_label: left of the chart.
        size: inches, 72 points each.

    Returns:
        SVG text, ready to be put into a page.

    Raises:
        ValueError: if a series does not have one value per group.
    """
    for name, values in series.items():
        if len(values) != len(groups):
            raise ValueError(f"series '{name}' has {len(values)} values for {len(groups)} groups")
    width = 0.8 / max(1, len(series))
    with _Chart(size, title, "", y_label) as chart:
        chart.axes.grid(visible=False, axis="x")
        for number, (name, values) in enumerate(series.items()):
            places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
            heights = np.asarray(values, dtype=float)
            color = SERIES_COLORS[number % len(SERIES_COLORS)]
            drawn = chart.axes.bar(places, np.nan_to_num(heights), width * 0.92, color=color, label=name)
            texts = [f"{h:.3g}" if np.isfinite(h) else "" for h in heights]
            chart.axes.bar_label(drawn, texts, padding=2, fontsize=8)
        chart.axes.set_xticks(np.arange(len(groups)), groups)
        chart.axes.margins(y=0.12)
        return chart.svg(legend=len(series) > 1)


def running_mean(values: Array, width: int) -> Array:
    """Mean of each value and the `width - 1` before it (fewer at the start), over those that are finite.

    Args:
        values: (N,) numbers.
        width: points in the mean.

    Returns:
        (N,) numbers.
    """
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0.0))
    counts = np.cumsum(finite)
    sums[width:], counts[width:] = sums[width:] - sums[:-width], counts[width:] - counts[:-width]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


class _Chart:
    """One matplotlib figure in our style, free of pyplot's global state, closed over one SVG."""

    def __init__(self, size: tuple[float, float], title: str, x_label: str, y_label: str) -> None:
        self._size = size
        self._labels = {"title": title, "xlabel": x_label, "ylabel": y_label}
        self._style = ExitStack()

    def __enter__(self) -> _Chart:
        import matplotlib
        from matplotlib.figure import Figure

        self._style.enter_context(matplotlib.rc_context(_STYLE))
        self._figure = Figure(figsize=self._size, layout="constrained")
        self.axes: Any = self._figure.subplots()
        self.axes.set(**self._labels)
        return self

    def __exit__(self, *exception: object) -> None:
        self._style.close()

    def log_scale(self) -> None:
        """A logarithmic vertical axis with plain numbers at 1, 2 and 5."""
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        self.axes.set_yscale("log")
        self.axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        self.axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        self.axes.yaxis.set_minor_formatter(NullFormatter())

    def svg(self, *, legend: bool) -> str:
        """The figure as text, from `<svg` on, without date or page background; the legend hides no line."""
        if legend:
            self._figure.legend(loc="outside right upper")
        buffer = io.StringIO()
        self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :].strip()
        # Only what is drawn stays: no comments, and no metadata, whose namespaces are links out of the page.
        text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'font: (\d[\d.]*)px [^;"]*', r"font: \1px system-ui, sans-serif", text)
        return text.replace(_TEXT, "currentColor")
