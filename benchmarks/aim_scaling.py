"""AIM at three toy sizes and equal tokens, on Fashion-MNIST: held-out loss and the accuracy of probes; resumable.

    python -m fourm prepare fashion outputs/fashion/data
    python benchmarks/aim_scaling.py outputs/fashion outputs/aim_scaling

Each run of `fourm pretrain aim_fashion` and each probe of its checkpoints goes on where it stopped and is skipped when
it is complete. Then OUT/aim_scaling.json holds the figures, and OUT/aim_loss.svg and OUT/aim_probes.svg the curves of
docs/aim.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fourm.files import publish
from fourm.report import plots
from fourm.report.runs import load_runs

SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "decoder_depth": 3, "num_heads": 1},
    "middle": {"dim": 64, "decoder_depth": 4, "num_heads": 1},
    "large": {"dim": 128, "decoder_depth": 6, "num_heads": 2},
}
PROBES = ("attentive", "linear")
QUIET = ["train.tensorboard=false"]


def fourm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "fourm", *map(str, arguments)], check=True)


def pretrain(options: argparse.Namespace, size: str) -> Path:
    """The run of one size, with all its checkpoints."""
    out = Path(options.output) / size
    fourm(
        "pretrain", "aim_fashion", f"variables.root={options.fashion}", f"output={out}",
        *(f"model.{key}={value}" for key, value in SIZES[size].items()),
        f"train.max_steps={options.steps}", f"train.batch_size={options.batch}",
        f"train.eval_every_steps={options.steps // (4 * options.points)}",
        f"train.save_every_steps={options.steps // options.points}", f"train.keep_checkpoints={options.points}",
        *QUIET, *options.override,
    )  # fmt: skip
    return out


def probe(options: argparse.Namespace, size: str, step: int, kind: str) -> dict[str, Any]:
    """The probe of one checkpoint, and what it reached."""
    run, place = Path(options.output) / size, Path(options.output) / "probes" / f"{size}-{step}"
    if not (place / "model" / "config.json").is_file():
        fourm("export", run / "checkpoints" / f"step-{step:08d}", place / "model")
    out = place / kind
    fourm(
        "finetune", f"aim_fashion_{kind}", f"variables.root={options.fashion}", f"init_from={place}", f"output={out}",
        f"train.max_steps={options.probe_steps}", "train.eval_every_steps=null", *QUIET,
    )  # fmt: skip
    (found,) = load_runs([out])
    return next(r for r in reversed(found.records) if r.get("kind") == "eval")


def held_out(run: Path) -> tuple[list[float], list[float]]:
    """Tokens and loss of every evaluation."""
    (found,) = load_runs([run])
    points = [(float(r["tokens"]), float(r["loss"])) for r in found.records if r.get("kind") == "eval"]
    return [x for x, _ in points], [y for _, y in points]


def parameters(run: Path) -> int:
    """Of the trunk."""
    from fourm.models.folder import load_model

    model: Any = load_model(run / "model")
    return sum(p.numel() for p in model.decoder.parameters())


def report(options: argparse.Namespace, accuracy: dict[tuple[str, str], list[float]]) -> None:
    """Write the table and the pictures of complete runs."""
    out, tokens, losses, results = Path(options.output), {}, {}, []
    for size in SIZES:
        x, y = held_out(out / size)
        share = [(point + 1) / options.points * x[-1] for point in range(options.points)]
        tokens[size], losses[f"{size}, {parameters(out / size) / 1e3:,.0f} k"] = share, (x, y)
        results.append(
            {
                "size": size, "trunk_parameters": parameters(out / size), "tokens": x[-1], "held_out_loss": y[-1],
                **{kind: accuracy[size, kind] for kind in PROBES},
            }
        )  # fmt: skip
    publish(out / "aim_scaling.json", json.dumps(results, indent=1))
    chart = plots.curves(losses, title="Patches of held-out photographs", x_label="tokens", size=(7.2, 3.8))
    publish(out / "aim_loss.svg", chart)
    probes = {f"{size}, {kind}": (tokens[size], accuracy[size, kind]) for kind in PROBES for size in SIZES}
    chart = plots.curves(probes, title="Probes", x_label="tokens", y_label="top-1", size=(7.2, 3.8))
    publish(out / "aim_probes.svg", chart)
    print("| size | trunk parameters | held-out loss | attentive | linear |")
    print("|---|---|---|---|---|")
    for row in results:
        last = " | ".join(f"{100 * row[kind][-1]:.1f} %" for kind in PROBES)
        print(f"| {row['size']} | {row['trunk_parameters'] / 1e3:,.0f} k | {row['held_out_loss']:.4f} | {last} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fashion", help="folder that holds `data`, of `fourm prepare fashion`")
    parser.add_argument("output", help="folder for the runs")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--points", type=int, default=3, help="checkpoints that are probed, evenly spaced")
    parser.add_argument("--probe-steps", type=int, default=400)
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="of all pretraining runs")
    options = parser.parse_args()
    if options.points < 1 or options.steps % (4 * options.points):
        parser.error(f"--steps {options.steps} is no multiple of four times --points {options.points}")
    accuracy: dict[tuple[str, str], list[float]] = {}
    for size in SIZES:
        pretrain(options, size)
        for kind in PROBES:
            steps = (options.steps * (point + 1) // options.points for point in range(options.points))
            accuracy[size, kind] = [float(probe(options, size, step, kind)["top1"]) for step in steps]
    report(options, accuracy)


if __name__ == "__main__":
    main()
