"""The evaluation of a trained model or tokenizer: `metrics.json`, `report.html` and pictures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fourm.errors import ConfigError
from fourm.evaluate.caption_configs import CaptionsEvaluation
from fourm.evaluate.configs import (
    AnswersEvaluation,
    DocumentsEvaluation,
    ModelEvaluation,
    TokenizerEvaluation,
)
from fourm.evaluate.outcome import Metrics, Outcome
from fourm.evaluate.retrieval_configs import RetrievalEvaluation
from fourm.machine import choose_device
from fourm.report.metrics import meaning

if TYPE_CHECKING:
    from fourm.generate.bundle import Bundle
    from fourm.report.html import Page

_LOG = logging.getLogger(__name__)
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"


def run(config: ModelEvaluation, load_bundle: Callable[[Path], Bundle]) -> Metrics:
    """Measure a model and write what was found.

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
    from fourm.evaluate.page import build_page

    start = time.perf_counter()
    bundle = load_bundle(config.model)
    outcome = measure(config, bundle)
    for name, reason in outcome.missing.items():
        _LOG.warning("%s is not measured: %s", meaning(name).title, reason)
    _write(config.output, outcome, build_page(config, bundle, outcome, time.perf_counter() - start))
    return outcome.metrics


def run_tokenizer(config: TokenizerEvaluation) -> Metrics:
    """Measure a saved tokenizer and write what was found.

    Returns:
        the content of `metrics.json`: `<modality>_reconstruction` -> metric -> value.

    Raises:
        CheckpointError: if the tokenizer or its teacher is missing or damaged, or it decodes to what is no image of its
            modality.
        ConfigError: if the tokenizer cannot be run as asked.
        DataError: if data is missing, empty or damaged, or the output cannot be written.
    """
    from fourm.evaluate.page import build_tokenizer_page
    from fourm.evaluate.reconstruction import evaluate_reconstruction
    from fourm.tokenizers.base import load_tokenizer

    start = time.perf_counter()
    device = choose_device(config.device)
    tokenizer = load_tokenizer(config.tokenizer, device)
    if config.teacher_weights is not None:
        if not hasattr(tokenizer, "load_teacher"):
            raise ConfigError(
                f"teacher_weights is given, but the tokenizer in {config.tokenizer} has no teacher: leave it out"
            )
        tokenizer.load_teacher(config.teacher_weights)
    outcome = evaluate_reconstruction(config, tokenizer, device)
    for name, reason in outcome.missing.items():
        _LOG.warning("%s is not measured: %s", meaning(name).title, reason)
    _write(config.output, outcome, build_tokenizer_page(config, tokenizer, outcome, time.perf_counter() - start))
    return outcome.metrics


def measure(config: ModelEvaluation, bundle: Bundle) -> Outcome:
    """The protocol of `config.kind`, without writing anything but the judge it may need."""
    from fourm.evaluate.predict import Predictor

    if isinstance(config, DocumentsEvaluation):
        from fourm.evaluate.documents import evaluate_documents

        bundle.model.to(choose_device(config.device)).eval()
        return evaluate_documents(config, bundle)
    if isinstance(config, CaptionsEvaluation):
        from fourm.evaluate.captions import evaluate_captions

        return evaluate_captions(config, bundle, choose_device(config.device))
    if isinstance(config, RetrievalEvaluation):
        from fourm.evaluate.retrieval import evaluate_retrieval

        return evaluate_retrieval(config, bundle, choose_device(config.device))
    predictor = Predictor(bundle, choose_device(config.device), config.seed)
    if isinstance(config, AnswersEvaluation):
        from fourm.evaluate.answers import evaluate_answers

        return evaluate_answers(config, predictor)
    if config.kind == "rooms":
        from fourm.evaluate.rooms import evaluate_rooms

        return evaluate_rooms(config, predictor)
    from fourm.evaluate.fashion import evaluate_fashion

    return evaluate_fashion(config, predictor)


def _write(output: Path, outcome: Outcome, page: Page) -> None:
    """`metrics.json` comes last, so with it the rest is complete."""
    from fourm.data.files import publish

    _write_pictures(output / "pictures", outcome)
    publish(output / REPORT_FILE, page.render().encode())
    publish(output / METRICS_FILE, json.dumps(outcome.metrics, indent=1).encode() + b"\n")


def _write_pictures(folder: Path, outcome: Outcome) -> None:
    from io import BytesIO

    from fourm.data.files import publish
    from fourm.report.grid import grid

    for table in outcome.tables:
        buffer = BytesIO()
        grid(table.cells, columns=table.columns, title=table.title, cell_size=128).save(buffer, "PNG")
        publish(folder / f"{table.name}.png", buffer.getvalue())
