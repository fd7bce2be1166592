"""AIM at three toy sizes and equal tokens, on Fashion-MNIST: held-out loss and the accuracy of probes; resumable.

    python -m fourm prepare fashion outputs/fashion/data
    python benchmarks/aim_scaling.py outputs/fashion outputs/aim_scaling --docs

Runs of `fourm pretrain aim_fashion`, and probes of their checkpoints in this process. Then OUT/aim_scaling.json holds
the figures, OUT/loss.svg and OUT/probes.svg the curves; the table is printed. `--docs` also keeps the figures in
benchmarks/results, and writes the table into docs/aim.md and the curves beside it.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import study
from aim_probes import Photographs, attentive, linear, photographs

from fourm.paths import FASHION_FOLDERS
from fourm.recipe.export import load_checkpoint
from fourm.report import plots

SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "decoder_depth": 3, "num_heads": 1},
    "middle": {"dim": 64, "decoder_depth": 4, "num_heads": 1},
    "large": {"dim": 96, "decoder_depth": 5, "num_heads": 2},
}
PROBES = ("attentive", "linear")
LINKS = (
    "![Held-out loss of three sizes of AIM over tokens](pictures/aim_scaling_loss.svg)",
    "![Accuracy of attentive and linear probes of the three sizes over tokens](pictures/aim_scaling_probes.svg)",
)
Results = list[dict[str, Any]]
"""A record per size, which holds lists over checkpoints."""


def pretrain(options: argparse.Namespace, size: str) -> Path:
    """The run of one size, with all its checkpoints."""
    return study.pretrain(
        options,
        "aim_fashion",
        size,
        SIZES[size],
        f"train.eval_every_steps={options.steps // (4 * options.points)}",
        f"train.save_every_steps={options.steps // options.points}",
        f"train.keep_checkpoints={options.points}",
    )


def measure(options: argparse.Namespace, size: str, data: Photographs) -> dict[str, Any]:
    """All of one size."""
    run = Path(options.output) / size
    steps = [options.steps * (point + 1) // options.points for point in range(options.points)]
    models = [load_checkpoint(run / "checkpoints" / f"step-{step:08d}") for step in steps]
    tokens, losses = study.held_out(run)
    return {
        "size": size, "dim": SIZES[size]["dim"], "trunk_parameters": study.trunk_parameters(run),
        "tokens": tokens, "held_out_loss": losses, "probed_at": [tokens[-1] * step / options.steps for step in steps],
        "attentive": [attentive(model, data, [-3, -2, -1]) for model in models],
        "linear": [linear(model, data) for model in models],
    }  # fmt: skip


def table(results: Results) -> str:
    """What the sizes reach at the end."""
    return study.table(
        ["model", "parameters of its layers", "held-out loss", *(f"{kind} probe, %" for kind in PROBES)],
        [
            [
                f"{row['size']}, {row['dim']} wide", f"{row['trunk_parameters']:,}", f"{row['held_out_loss'][-1]:.4f}",
                *(f"{100 * row[kind][-1]:.1f}" for kind in PROBES),
            ]
            for row in results
        ],
    )  # fmt: skip


def reading(results: Results) -> str:
    """What the figures say."""
    pairs = list(pairwise(results))
    falls = sum(before["held_out_loss"][-1] > after["held_out_loss"][-1] for before, after in pairs)
    rises = {kind: sum(before[kind][-1] < after[kind][-1] for before, after in pairs) for kind in PROBES}
    ahead = sum(a > b for row in results for a, b in zip(row["attentive"], row["linear"], strict=True))
    probed = sum(len(row["attentive"]) for row in results)
    return (
        f"From one size to the next, the loss falls in {falls} of {len(pairs)} steps; the accuracy rises in "
        + " and in ".join(f"{count} for the {kind} probe" for kind, count in rises.items())
        + f". The attentive probe reads more than the linear one from {ahead} of {probed} checkpoints."
    )


def pictures(results: Results) -> dict[str, str]:
    """The curves as SVG."""
    names = {row["size"]: f"{row['size']}, {row['trunk_parameters'] / 1e3:,.0f} k" for row in results}
    losses = {names[row["size"]]: (row["tokens"], row["held_out_loss"]) for row in results}
    probes = {f"{row['size']}, {kind}": (row["probed_at"], row[kind]) for kind in PROBES for row in results}
    return {
        "loss": plots.curves(losses, title="AIM at three sizes", x_label="tokens", y_label="held-out loss"),
        "probes": plots.curves(probes, title="Their probes", x_label="tokens", y_label="top-1"),
    }


def main() -> None:
    parser = study.parser(
        __doc__, "fashion", "folder that holds `data`, of `fourm prepare fashion`", steps=720, batch=64
    )
    parser.add_argument("--points", type=int, default=3, help="checkpoints that are probed, evenly spaced")
    parser.add_argument("--num-probe", type=int, default=10_000, help="photographs that probes are fitted on")
    parser.add_argument("--idx", type=Path, default=FASHION_FOLDERS[0], help="folder of the four files they come from")
    options = parser.parse_args()
    if options.points < 1 or options.steps % (4 * options.points):
        parser.error(f"--steps {options.steps} is no multiple of four times --points {options.points}")
    for size in SIZES:
        pretrain(options, size)
    data = photographs(options.idx, options.num_probe, 10_000)
    results = [measure(options, size, data) for size in SIZES]
    study.keep("aim_scaling", results, pictures(results), Path(options.output))
    print(table(results))
    if options.docs:
        study.keep_in_docs("aim_scaling", results, pictures(results), study.CHECKOUT)
        text = "\n\n".join([table(results), reading(results), *LINKS])
        study.write_part(study.CHECKOUT / "docs" / "aim.md", "aim_scaling.py", text)


if __name__ == "__main__":
    main()
