"""Results as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from fourm.report.metrics import MetricRow, format_value


def metrics_table(rows: Sequence[MetricRow]) -> Table:
    """One line per metric, with what it is compared with beside it; see `metrics.rows`."""
    references = list(dict.fromkeys(name for row in rows for name in (*row.references, *row.bounds)))
    table = Table("task", "metric", "better")
    for name in ("result", *references):
        table.add_column(name, justify="right")
    previous = ""
    for row in rows:
        unit, others = row.meaning.unit, {**row.references, **row.bounds}
        cells = [format_value(others[name], unit) if name in others else "" for name in references]
        task = row.task if row.task != previous else ""
        table.add_row(task, row.meaning.title, row.meaning.better, format_value(row.value, unit), *cells)
        previous = row.task
    return table
