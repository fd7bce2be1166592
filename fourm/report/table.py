"""Results as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fourm.report.metrics import MetricRow, format_value


def metrics_table(rows: Sequence[MetricRow]) -> Table:
    """One line per metric, and one per number it is compared with, narrow enough for 80 columns; see `metrics.rows`."""
    table = Table("task", "metric", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("result", justify="right", no_wrap=True)
    table.add_column("better", no_wrap=True)
    table.add_column("compared with")
    previous = ""
    for row in rows:
        unit = row.meaning.unit
        others = [f"{name} {format_value(value, unit)}" for name, value in {**row.references, **row.bounds}.items()]
        task = row.task if row.task != previous else ""
        table.add_row(
            task, row.meaning.title, format_value(row.value, unit), row.meaning.better, "\n".join(others) or ""
        )
        previous = row.task
    return table
