"""Results on the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from fourm.report.metrics import rows
from fourm.report.table import metrics_table


def test_each_metric_has_a_line_with_its_unit_and_what_it_is_compared_with() -> None:
    results = {"rgb_reconstruction": {"psnr": 25.0, "bicubic_psnr": 20.0, "codes_used": 0.5}}
    console = Console(file=io.StringIO(), width=120)
    console.print(metrics_table(rows(results)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in text.splitlines() if "\u2502" in line]
    assert lines == [
        ["RGB reconstruction", "PSNR", "higher", "25.0 dB", "20.0 dB"],
        ["", "codes used", "higher", "50.0 %", ""],
    ]
