"""LVM at three toy sizes and equal tokens, on rooms: held-out loss, and perplexity behind examples; resumable.

    python -m fourm train-tokenizer toy_vqgan_rooms       # rooms of the quick start
    python -m fourm prepare sentences rooms
    python -m fourm prepare sentences rooms variables.split=test
    python benchmarks/lvm_scaling.py outputs/quickstart outputs/lvm_scaling --docs

Runs of `fourm pretrain lvm_rooms`. Then OUT/lvm_scaling.json holds the figures, OUT/loss.svg and OUT/perplexity.svg the
curves; the table is printed. `--docs` also keeps the figures in benchmarks/results, and writes table and curves into
docs/lvm.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import sizes
import study
from lvm_shots import mean, perplexities

from fourm.models.folder import load_model
from fourm.recipe.export import export
from fourm.report import plots

SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 16, "mlp_hidden_dim": 44, "decoder_depth": 1, "num_heads": 1},
    "middle": {"dim": 32, "mlp_hidden_dim": 88, "decoder_depth": 2, "num_heads": 1},
    "large": {"dim": 64, "mlp_hidden_dim": 172, "decoder_depth": 3, "num_heads": 2},
}
SHOTS = (0, 1, 3)
ANSWERS = 16
"""Of each task."""
EVALUATIONS = 2
"""From one checkpoint that is prompted to the next."""


def measure(options: argparse.Namespace, size: str) -> sizes.Record:
    """All of one size."""
    run = sizes.pretrain(options, "lvm_rooms", size, SIZES[size], EVALUATIONS)
    sentences = Path(options.source) / "sentences" / "test"
    found = [perplexities(checkpoint(run, step), sentences, SHOTS, ANSWERS) for step in sizes.points(options)]
    return {
        **sizes.record(options, run, size, SIZES[size], "prompted_at"),
        "perplexity": {str(count): [mean(one, count) for one in found] for count in SHOTS},
    }


def checkpoint(run: Path, step: int) -> Any:
    """The model of a run as it was after so many steps."""
    place = run / "steps" / str(step)
    if not (place / "config.json").is_file():
        export(str(run / "checkpoints" / f"step-{step:08d}"), place)
    return load_model(place)


def table(results: list[sizes.Record]) -> str:
    """What the sizes reach at the end."""
    return sizes.table(results, 3, {f"perplexity, {count} examples": _perplexity(count) for count in SHOTS})


def _perplexity(count: int) -> Any:
    return lambda row: f"{row['perplexity'][str(count)][-1]:.1f}"


def reading(results: list[sizes.Record]) -> str:
    """What the figures say."""
    most, steps = str(SHOTS[-1]), len(results) - 1
    better = sizes.falls(results, lambda row: row["perplexity"][most])
    examples = sum(row["perplexity"][most][-1] < row["perplexity"]["0"][-1] for row in results)
    return (
        f"From one size to the next, the loss falls in {sizes.falls(results, lambda row: row['held_out_loss'])} of "
        f"{steps} steps and the perplexity behind {most} examples in {better}. It is below the one without examples "
        f"for {examples} of {len(results)} models."
    )


def pictures(results: list[sizes.Record]) -> dict[str, str]:
    """The curves as SVG."""
    prompted = {
        f"{row['size']}, {count} examples": (row["prompted_at"], row["perplexity"][str(count)])
        for row in results
        for count in (SHOTS[0], SHOTS[-1])
    }
    return {
        "loss": sizes.losses(results, "LVM at three sizes"),
        "perplexity": plots.curves(prompted, title="Their answers", x_label="tokens", y_label="perplexity"),
    }


def main() -> None:
    parser = study.parser(
        __doc__, "quickstart", "folder that holds `tokenizers/toy_vqgan_rooms` and `sentences`", steps=1000, batch=4
    )
    options = sizes.parse(parser, EVALUATIONS, points=4)
    results = [measure(options, size) for size in SIZES]
    captions = {"loss": "Held-out loss", "perplexity": "Perplexity of answers, without examples and behind three"}
    texts = [table(results), reading(results)]
    study.tell("lvm_scaling", options, results, texts, "lvm.md", pictures(results), captions)


if __name__ == "__main__":
    main()
