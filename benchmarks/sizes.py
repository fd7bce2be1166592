"""What studies of one recipe at several sizes and equal tokens share: their runs, and how these are told.

Each run keeps checkpoints at evenly spaced steps, its points, which a study measures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import study

from fourm.report import plots

Record = dict[str, Any]
"""Of one size; it holds lists over evaluations or points."""
COMMON = ("model", "parameters of its layers", "held-out loss")


def parse(arguments: argparse.ArgumentParser, evaluations: int, points: int) -> argparse.Namespace:
    """The arguments of a study, and how many checkpoints it measures.

    Args:
        arguments: of `study.parser`, and its own.
        evaluations: of the held-out loss from one point to the next.
        points: unless others are asked for.
    """
    arguments.add_argument("--points", type=int, default=points, help="checkpoints that are measured, evenly spaced")
    options = arguments.parse_args()
    if options.points < 1 or options.steps % (evaluations * options.points):
        arguments.error(
            f"--steps {options.steps} is no multiple of {evaluations} evaluations before each of --points "
            f"{options.points}"
        )
    return options


def points(options: argparse.Namespace) -> list[int]:
    """Steps after which checkpoints are measured."""
    return [options.steps * (point + 1) // options.points for point in range(options.points)]


def pretrain(
    options: argparse.Namespace, recipe: str, size: str, model: Mapping[str, Any], evaluations: int, *overrides: object
) -> Path:
    """The run of one size; arguments as for `parse` and `study.pretrain`."""
    return study.pretrain(
        options, recipe, size, model,
        f"train.eval_every_steps={options.steps // (evaluations * options.points)}",
        f"train.save_every_steps={options.steps // options.points}", f"train.keep_checkpoints={options.points}",
        *overrides,
    )  # fmt: skip


def record(options: argparse.Namespace, run: Path, size: str, model: Mapping[str, Any], measured: str) -> Record:
    """What all studies note of one size; under the key `measured`, tokens seen at each point."""
    tokens, losses = study.held_out(run)
    return {
        "size": size, "dim": model["dim"], "trunk_parameters": study.trunk_parameters(run), "tokens": tokens,
        "held_out_loss": losses, measured: [tokens[-1] * step / options.steps for step in points(options)],
    }  # fmt: skip


def table(results: Sequence[Record], digits: int, columns: Mapping[str, Callable[[Record], str]]) -> str:
    """What the sizes reach at the end: parameters, loss and the columns of the study."""
    rows = [
        [
            f"{row['size']}, {row['dim']} wide", f"{row['trunk_parameters']:,}",
            f"{row['held_out_loss'][-1]:.{digits}f}", *(cell(row) for cell in columns.values()),
        ]
        for row in results
    ]  # fmt: skip
    return study.table([*COMMON, *columns], rows)


def falls(results: Sequence[Record], number: Callable[[Record], list[float]]) -> int:
    """In how many steps from one size to the next a number is lower at the end."""
    return sum(number(before)[-1] > number(after)[-1] for before, after in pairwise(results))


def losses(results: Sequence[Record], title: str) -> str:
    """Curves of the held-out loss as SVG."""
    lines = {
        f"{row['size']}, {row['trunk_parameters'] / 1e3:,.0f} k": (row["tokens"], row["held_out_loss"])
        for row in results
    }
    return plots.curves(lines, title=title, x_label="tokens", y_label="held-out loss")
