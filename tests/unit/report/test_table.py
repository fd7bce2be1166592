"""Results on the terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from fourm.report.metrics import rows
from fourm.report.table import metrics_table


def test_each_metric_has_a_line_with_its_unit_and_what_it_is_compared_with() -> None:
    results = {"rgb_reconstruction": {"psnr": 25.0, "bicubic_psnr": 20.0, "codes_used": 0.5}}
    console = Console(file=io.StringIO(), width=80)
    console.print(metrics_table(rows(results)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines() if line.strip()]
    assert lines[0] == ["task", "metric", "result", "better", "compared with"]
    assert lines[2:] == [
        ["RGB reconstruction", "PSNR", "25.0 dB", "higher", "bicubic 20.0 dB"],
        ["codes used", "50.0 %", "higher"],
    ]
