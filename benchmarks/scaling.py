"""The scaling study at toy size: three models and three amounts of data on rooms, at equal tokens; resumable.

    python -m fourm run quickstart                       # rooms, tokenizers, tokens
    python benchmarks/scaling.py outputs/quickstart outputs/scaling

Nine runs of `fourm pretrain rooms`, each of which goes on where it stopped and is skipped when it is complete. Then
OUT/scaling.json holds the held-out losses, OUT/scaling.html the curves, and OUT/scaling.svg the picture of
docs/scaling.md.
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
from fourm.report.curves import page_of
from fourm.report.runs import Run, load_runs

MODELS: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 1},
    "middle": {"dim": 64, "encoder_depth": 3, "decoder_depth": 2, "num_heads": 1},
    "large": {"dim": 128, "encoder_depth": 4, "decoder_depth": 2, "num_heads": 2},
}
ROOMS = (60, 500, 4000)


def command(options: argparse.Namespace, model: str, rooms: int) -> list[str]:
    """The run of one model on so many rooms."""
    return [
        *(sys.executable, "-m", "fourm", "pretrain", "rooms", f"variables.root={options.quickstart}"),
        *(f"model.{key}={value}" for key, value in MODELS[model].items()),
        f"data.train.datasets.rooms.max_samples={rooms}",
        f"train.max_steps={options.steps}",
        f"train.batch_size={options.batch}",
        f"train.eval_every_steps={options.every}",
        f"train.save_every_steps={options.every}",
        "train.pictures_every_steps=null",
        "train.tensorboard=false",
        "pictures.given=[]",
        f"evaluation.max_samples={options.samples}",
        f"output={place(options, model, rooms)}",
        *options.override,
    ]


def place(options: argparse.Namespace, model: str, rooms: int) -> Path:
    return Path(options.output) / f"{model}-{rooms}"


def parameters(run: Path) -> int:
    """Of the trunks, which the sizes are about; tables and heads grow with the width alone."""
    import torch

    from fourm.models.folder import load_model

    model: Any = load_model(run / "model", torch.device("cpu"))
    return sum(p.numel() for part in (model.encoder, model.decoder) for p in part.parameters())


def held_out(run: Run) -> tuple[list[float], list[float]]:
    """Tokens and loss of every evaluation."""
    points = [(r["tokens"], r["loss"]) for r in run.records if r.get("kind") == "eval"]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def report(options: argparse.Namespace) -> None:
    """Write the table, the page and the picture of complete runs."""
    results, series = [], {}
    for model in MODELS:
        for rooms in ROOMS:
            folder = place(options, model, rooms)
            (run,) = load_runs([folder])
            tokens, losses = held_out(run)
            series[f"{model}, {rooms:,} rooms"] = (tokens, losses)
            results.append(
                {
                    "model": model, "trunk_parameters": parameters(folder), "rooms": rooms, "tokens": tokens[-1],
                    "held_out_loss": losses[-1], "lowest": min(losses),
                }
            )  # fmt: skip
    out = Path(options.output)
    publish(out / "scaling.json", json.dumps(results, indent=1))
    chart = plots.curves(series, title="Rooms, held out", x_label="tokens", size=(7.2, 4.2))
    publish(out / "scaling.svg", chart)
    page = page_of(load_runs([place(options, m, r) for m in MODELS for r in ROOMS]))
    page.save(out / "scaling.html")
    print("| model | trunk parameters | " + " | ".join(f"{rooms:,} rooms" for rooms in ROOMS) + " |")
    print("|---" * (2 + len(ROOMS)) + "|")
    for model in MODELS:
        own = [r for r in results if r["model"] == model]
        losses = " | ".join(f"{r['held_out_loss']:.3f}" for r in own)
        print(f"| {model} | {own[0]['trunk_parameters'] / 1e3:,.0f} k | {losses} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quickstart", help="output folder of `fourm run quickstart`")
    parser.add_argument("output", help="folder for the runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--every", type=int, default=60, help="steps between evaluations")
    parser.add_argument("--samples", type=int, default=128, help="held-out rooms")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="of all runs")
    options = parser.parse_args()
    for model in MODELS:
        for rooms in ROOMS:
            subprocess.run(command(options, model, rooms), check=True)
    report(options)


if __name__ == "__main__":
    main()
