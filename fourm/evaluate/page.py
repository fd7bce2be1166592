"""The report of an evaluation: what was trained, how it learned, what it makes, how good it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm.evaluate.configs import EvaluateConfig, ModelEvaluation, TokenizerEvaluation
from fourm.evaluate.outcome import Outcome, PictureTable
from fourm.generate.bundle import Bundle
from fourm.report import metrics as meanings
from fourm.report import plots
from fourm.report.html import Page

_LOG = logging.getLogger(__name__)
_TITLES = {
    "rooms": "Rendered rooms",
    "fashion": "Fashion photographs",
    "answers": "Predictions out of the box",
    "documents": "Documents of text and pictures",
    "captions": "Captions of pictures and pictures of captions",
    "retrieval": "What belongs together",
}
_REFERENCES = {
    "baseline": "The baseline ignores the input and gives the same, best constant answer every time.",
    "chance": "Chance is what the same answers get when they are put beside all pictures or captions in turn, or what "
    "drawing at random finds.",
    "without pictures": "Without pictures, the same model sees the words alone.",
    "bicubic": "Bicubic is the original reduced to one pixel per token and enlarged again.",
    "linear": "The linear model is a ridge regression from a 16 x 16 thumbnail of the image.",
}
_MOST_CURVES = 8


def build_page(config: ModelEvaluation, bundle: Bundle, outcome: Outcome, seconds: float) -> Page:
    """The whole page.

    Args:
        config: of the evaluation.
        bundle: the model and its tokenizers.
        outcome: numbers and pictures.
        seconds: the evaluation took.
    """
    rows = meanings.rows(outcome.metrics)
    beaten = [row.beats_all for row in rows if row.beats_all is not None]
    page = Page(
        f"{_TITLES[config.kind]}: {'contrastive' if config.kind == 'retrieval' else 'any-to-any'} model",
        "Measured on data the model has never seen."
        + (f" It is better than every baseline in {sum(beaten)} of {len(beaten)} tasks." if beaten else ""),
    )
    _add_results(page, rows, outcome)
    for table in outcome.tables:
        _add_pictures(page, table, outcome.classes if "segmentation" in " ".join(table.columns) else ())
    page.section("What was trained")
    page.facts(trained(bundle))
    page.section("Time", "Wall time of each stage before this one, and of this evaluation so far.")
    before = config.stages if isinstance(config, EvaluateConfig) else None
    stages = {name: spent for name, spent in read_stages(before).items() if name != "evaluate"}
    page.facts({name: duration(spent) for name, spent in {**stages, "this evaluation": seconds}.items()})
    charts = [
        chart for name, path in getattr(config, "logs", {}).items() for chart in learning_curves(name, read_log(path))
    ]
    if charts:
        page.section(
            "Learning curves", "Loss over training steps; the faint line is each logged value, the strong one a mean."
        )
        page.charts(*charts)
    return page


def build_tokenizer_page(config: TokenizerEvaluation, tokenizer: Any, outcome: Outcome, seconds: float) -> Page:
    """The whole page of a tokenizer.

    Args:
        config: of the evaluation.
        tokenizer: of any family.
        outcome: numbers and pictures.
        seconds: the evaluation took.
    """
    modality, grid = tokenizer.modality, tokenizer.grid
    height, width = modality.grid.image_size
    page = Page(
        f"Tokenizer of {modality.name}",
        f"{height} x {width} pixels become {grid.height} x {grid.width} tokens of {tokenizer.vocab_size:,} codes, and "
        "back. Both are compared in natural units, on the data named below.",
    )
    _add_results(page, meanings.rows(outcome.metrics), outcome)
    for table in outcome.tables:
        _add_pictures(page, table, outcome.classes)
    page.section("What was measured")
    page.facts(
        {
            "tokenizer": config.tokenizer,
            "network": type(tokenizer).__name__,
            **({"size": f"{_parameters(tokenizer)} parameters"} if hasattr(tokenizer, "parameters") else {}),
            "hash": tokenizer.hash[:12],
            "crop": config.crop.kind,
            "seed": config.seed,
            "this evaluation": duration(seconds),
        }
    )
    return page


def _add_results(page: Page, rows: Sequence[meanings.MetricRow], outcome: Outcome) -> None:
    """The table of metrics, what could not be measured, and on what all was."""
    page.section(
        "Results", *(text for name, text in _REFERENCES.items() if any(name in row.references for row in rows))
    )
    page.metrics(rows)
    page.text(*(f"{meanings.meaning(name).title} is not measured: {why}." for name, why in outcome.missing.items()))
    page.facts(outcome.facts)


def _add_pictures(page: Page, table: PictureTable, classes: tuple[str, ...]) -> None:
    page.section(table.title, table.note)
    page.grid(table.cells, columns=table.columns)
    if classes:
        page.legend(classes)


def trained(bundle: Bundle) -> dict[str, str]:
    """The model and its tokenizers, in words."""
    model = bundle.model
    facts = {"model": f"{_parameters(model)} parameters"}
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "encoder_depth"):
        depths = f"{config.encoder_depth} encoder and {config.decoder_depth} decoder layers"
        facts["transformer"] = f"width {config.dim}, {config.num_heads} heads, {depths}"
    facts["modalities"] = ", ".join(model.modalities)
    for name, tokenizer in bundle.tokenizers.items():
        codes = getattr(tokenizer, "vocab_size", None)  # what paints vectors has none
        facts[f"tokenizer {name}"] = f"{_parameters(tokenizer)} parameters" + (f", {codes} codes" if codes else "")
    if bundle.text is not None:
        facts["text tokenizer"] = f"{bundle.text.vocab_size} word pieces"
    return facts


def learning_curves(name: str, records: list[dict[str, Any]]) -> list[str]:
    """Charts of a run: its loss, and the loss of each part where there are several."""
    train = _series(records, "train", "loss")
    if train is None:
        return []
    series = {"training": train}
    held_out = _series(records, "eval", "loss")
    if held_out is not None:
        series["held out"] = held_out
    charts = [plots.curves(series, title=name, smooth=max(1, len(train[0]) // 40))]
    keys = list(dict.fromkeys(key for record in records for key in record if key.startswith("loss/")))
    for kind in ("eval", "train"):
        parts = {key.removeprefix("loss/"): s for key in keys if (s := _series(records, kind, key)) is not None}
        if len(parts) > 1:
            chosen = dict(list(parts.items())[:_MOST_CURVES])
            title = f"{name}, {'held out' if kind == 'eval' else 'training'}, by modality"
            return [*charts, plots.curves(chosen, title=title, smooth=1 if kind == "eval" else 10)]
    return charts


def _series(records: list[dict[str, Any]], kind: str, key: str) -> tuple[list[float], list[float]] | None:
    points = [
        (float(record["step"]), float(record[key]))
        for record in records
        if record.get("kind") == kind and record.get(key) is not None
    ]
    return ([x for x, _ in points], [y for _, y in points]) if len(points) > 1 else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`; none if it is missing, and without a line cut short."""
    if not path.is_file():
        _LOG.warning("no learning curves from %s: there is no such file", path)
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def read_stages(path: Path | None) -> Mapping[str, float]:
    """Seconds of each stage, as a pipeline writes them; empty if there are none."""
    try:
        stages = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        _LOG.warning("no stage times from %s: it cannot be read", path)
        return {}
    return {str(name): float(spent) for name, spent in stages.items()} if isinstance(stages, dict) else {}


def duration(seconds: float) -> str:
    """`75` as `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _parameters(module: Any) -> str:
    count = sum(p.numel() for p in module.parameters())
    return f"{count / 1e6:.2f} million" if count >= 1e5 else f"{count:,}"
