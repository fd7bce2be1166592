"""AIM at three toy sizes and equal tokens, on Fashion-MNIST: held-out loss and the accuracy of probes; resumable.

    python -m fourm prepare fashion outputs/fashion/data
    python benchmarks/aim_scaling.py outputs/fashion outputs/aim_scaling --docs

Runs of `fourm pretrain aim_fashion`, and probes of their checkpoints. Then OUT/aim_scaling.json holds the figures,
OUT/loss.svg and OUT/probes.svg the curves; the table is printed. `--docs` also keeps the figures in benchmarks/results,
and writes table and curves into docs/aim.md.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import study

from fourm.report import plots

SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "decoder_depth": 3, "num_heads": 1},
    "middle": {"dim": 64, "decoder_depth": 4, "num_heads": 1},
    "large": {"dim": 128, "decoder_depth": 6, "num_heads": 2},
}
PROBES = ("attentive", "linear")
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


def probe(options: argparse.Namespace, run: Path, step: int, kind: str) -> float:
    """The accuracy that a probe of one checkpoint reaches."""
    place = Path(options.output) / "probes" / f"{run.name}-{step}"
    if not (place / "model" / "config.json").is_file():
        study.fourm("export", run / "checkpoints" / f"step-{step:08d}", place / "model")
    study.fourm(
        "finetune", f"aim_fashion_{kind}", f"variables.root={options.source}", f"init_from={place}",
        f"output={place / kind}", f"train.max_steps={options.probe_steps}", "train.eval_every_steps=null",
        "train.tensorboard=false",
    )  # fmt: skip
    return float(study.log_of(place / kind).last("eval")["top1"])


def measure(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """All of one size."""
    run = pretrain(options, size)
    tokens, losses = study.held_out(run)
    steps = [options.steps * (point + 1) // options.points for point in range(options.points)]
    return {
        "size": size, "dim": SIZES[size]["dim"], "trunk_parameters": study.trunk_parameters(run),
        "tokens": tokens, "held_out_loss": losses, "probed_at": [tokens[-1] * step / options.steps for step in steps],
        **{kind: [probe(options, run, step, kind) for step in steps] for kind in PROBES},
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
        __doc__, "fashion", "folder that holds `data`, of `fourm prepare fashion`", steps=1200, batch=64
    )
    parser.add_argument("--points", type=int, default=3, help="checkpoints that are probed, evenly spaced")
    parser.add_argument("--probe-steps", type=int, default=400)
    options = parser.parse_args()
    if options.points < 1 or options.steps % (4 * options.points):
        parser.error(f"--steps {options.steps} is no multiple of four times --points {options.points}")
    results = [measure(options, size) for size in SIZES]
    study.keep("aim_scaling", results, pictures(results), Path(options.output))
    print(table(results))
    if options.docs:
        study.keep_in_docs("aim_scaling", results, pictures(results), study.CHECKOUT)
        text = f"{table(results)}\n\n{reading(results)}"
        study.write_part(study.CHECKOUT / "docs" / "aim.md", "aim_scaling.py", text)


if __name__ == "__main__":
    main()
