"""AIM at three toy sizes and equal tokens, on Fashion-MNIST: held-out loss and the accuracy of probes; resumable.

    python -m fourm prepare fashion outputs/fashion/data
    python benchmarks/aim_scaling.py outputs/fashion outputs/aim_scaling --docs

Runs of `fourm pretrain aim_fashion`, and probes of their checkpoints in this process. Then OUT/aim_scaling.json holds
the figures, OUT/loss.svg and OUT/probes.svg the curves; the table is printed. `--docs` also keeps the figures in
benchmarks/results, and writes the table into docs/aim.md and the curves beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sizes
import study
from aim_probes import Photographs, attentive, features, linear, photographs

from fourm.paths import FASHION_FOLDERS
from fourm.recipe.export import load_checkpoint
from fourm.report import plots

SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "decoder_depth": 3, "num_heads": 1},
    "middle": {"dim": 64, "decoder_depth": 4, "num_heads": 1},
    "large": {"dim": 96, "decoder_depth": 5, "num_heads": 2},
}
PROBES = ("attentive", "linear")
EVALUATIONS = 4
"""From one checkpoint that is probed to the next."""


def measure(options: argparse.Namespace, size: str, data: Photographs) -> sizes.Record:
    """All of one size."""
    run = Path(options.output) / size
    models = [load_checkpoint(run / "checkpoints" / f"step-{step:08d}") for step in sizes.points(options)]
    return {
        **sizes.record(options, run, size, SIZES[size], "probed_at"),
        "attentive": [
            attentive(model, features(model, data, [-3, -2, -1]), data, options.probe_steps) for model in models
        ],
        "linear": [linear(features(model, data), data) for model in models],
    }


def table(results: list[sizes.Record]) -> str:
    """What the sizes reach at the end."""
    columns = {f"{kind} probe, %": lambda row, kind=kind: f"{100 * row[kind][-1]:.1f}" for kind in PROBES}
    return sizes.table(results, 4, columns)


def reading(results: list[sizes.Record]) -> str:
    """What the figures say."""
    steps = len(results) - 1
    rises = {kind: sizes.falls(results, lambda row, kind=kind: [-share for share in row[kind]]) for kind in PROBES}
    ahead = sum(a > b for row in results for a, b in zip(row["attentive"], row["linear"], strict=True))
    probed = sum(len(row["attentive"]) for row in results)
    return (
        f"From one size to the next, the loss falls in {sizes.falls(results, lambda row: row['held_out_loss'])} of "
        f"{steps} steps; the accuracy rises in "
        + " and in ".join(f"{count} for the {kind} probe" for kind, count in rises.items())
        + f". The attentive probe reads more than the linear one from {ahead} of {probed} checkpoints."
    )


def pictures(results: list[sizes.Record]) -> dict[str, str]:
    """The curves as SVG."""
    probes = {f"{row['size']}, {kind}": (row["probed_at"], row[kind]) for kind in PROBES for row in results}
    return {
        "loss": sizes.losses(results, "AIM at three sizes"),
        "probes": plots.curves(probes, title="Their probes", x_label="tokens", y_label="top-1"),
    }


def main() -> None:
    parser = study.parser(
        __doc__, "fashion", "folder that holds `data`, of `fourm prepare fashion`", steps=720, batch=64
    )
    parser.add_argument("--num-probe", type=int, default=10_000, help="photographs that probes are fitted on")
    parser.add_argument("--probe-steps", type=int, default=2000, help="of 128 photographs, of the attentive probe")
    parser.add_argument("--idx", type=Path, default=FASHION_FOLDERS[0], help="folder of the four files they come from")
    options = sizes.parse(parser, EVALUATIONS, points=3)
    for size in SIZES:
        sizes.pretrain(options, "aim_fashion", size, SIZES[size], EVALUATIONS)
    data = photographs(options.idx, options.num_probe, 10_000)
    results = [measure(options, size, data) for size in SIZES]
    captions = {
        "loss": "Held-out loss of three sizes of AIM over tokens",
        "probes": "Accuracy of attentive and linear probes of the three sizes over tokens",
    }
    texts = [table(results), reading(results)]
    study.tell("aim_scaling", options, results, texts, "aim.md", pictures(results), captions)


if __name__ == "__main__":
    main()
