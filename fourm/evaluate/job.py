"""The evaluation of a trained model: `metrics.json`, `report.html` and pictures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.outcome import Metrics, Outcome
from fourm.machine import choose_device

if TYPE_CHECKING:
    from fourm.generate.bundle import Bundle

_LOG = logging.getLogger(__name__)
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"


def run(config: EvaluateConfig, load_bundle: Callable[[Path], Bundle]) -> Metrics:
    """Measure a model and write what was found; `metrics.json` comes last, so with it the rest is complete.

    Args:
        config: what to measure.
        load_bundle: reads a model folder with its tokenizers (`fourm.recipe.load_bundle`).

    Returns:
        the content of `metrics.json`: task -> metric -> value.

    Raises:
        CheckpointError: if the model is missing or damaged.
        ConfigError: if the model does not know what is measured.
        DataError: if data is missing or damaged, or the output cannot be written.
    """
    from fourm.data.files import publish
    from fourm.evaluate.page import build_page

    start = time.perf_counter()
    bundle = load_bundle(config.model)
    outcome = measure(config, bundle)
    _write_pictures(config.output / "pictures", outcome)
    page = build_page(config, bundle, outcome, time.perf_counter() - start)
    publish(config.output / REPORT_FILE, page.render().encode())
    publish(config.output / METRICS_FILE, json.dumps(outcome.metrics, indent=1).encode() + b"\n")
    for task, values in outcome.metrics.items():
        _LOG.info("%s: %s", task, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
    return outcome.metrics


def measure(config: EvaluateConfig, bundle: Bundle) -> Outcome:
    """The protocol of `config.kind`, without writing anything but the judge it may need."""
    from fourm.evaluate.predict import Predictor

    predictor = Predictor(bundle, choose_device(config.device), config.seed)
    if config.kind == "rooms":
        from fourm.evaluate.rooms import evaluate_rooms

        return evaluate_rooms(config, predictor)
    from fourm.evaluate.fashion import evaluate_fashion

    return evaluate_fashion(config, predictor)


def _write_pictures(folder: Path, outcome: Outcome) -> None:
    from io import BytesIO

    from fourm.data.files import publish
    from fourm.report.grid import grid

    for table in outcome.tables:
        buffer = BytesIO()
        grid(table.cells, columns=table.columns, title=table.title, cell_size=128).save(buffer, "PNG")
        publish(folder / f"{table.name}.png", buffer.getvalue())
