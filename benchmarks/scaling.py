"""The scaling study at toy size: three models and three amounts of data on rooms, at equal tokens; resumable.

    python -m fourm run quickstart                       # rooms, tokenizers, tokens
    python benchmarks/scaling.py outputs/quickstart outputs/scaling --docs

Nine runs of `fourm pretrain rooms`, each of which goes on where it stopped and is skipped when it is complete. Then
OUT/scaling.json holds the held-out losses, OUT/scaling.html all curves, OUT/models.svg and OUT/rooms.svg those of all
models and of all amounts of data; the table is printed. `--docs` also keeps the numbers in benchmarks/results and
writes docs/scaling.md from them. About 20 minutes of one core (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from fourm.files import publish
from fourm.report import plots
from fourm.report.curves import page_of
from fourm.report.runs import load_runs

MODELS: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 1},
    "middle": {"dim": 64, "encoder_depth": 3, "decoder_depth": 2, "num_heads": 1},
    "large": {"dim": 128, "encoder_depth": 4, "decoder_depth": 2, "num_heads": 2},
}
ROOMS = (250, 1000, 4000)
CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = """# Scaling

Three sizes of the quick start's model, each trained on three amounts of its rooms, always for the same {tokens} tokens
({steps} steps of {batch} rooms): `benchmarks/scaling.py`, which wrote this page. What counts is the loss on {held_out}
rooms that none of them has seen, with the same masks for all: nats per predicted token, over all modalities. Of
{fewest} rooms, each is seen {epochs_fewest} times, masked anew each time; of {most}, {epochs_most} times.

{table}

{reading}

![Held-out loss of three models on {most} rooms](pictures/scaling_models.svg)

![Held-out loss of the largest model on three amounts of rooms](pictures/scaling_rooms.svg)

```bash
fourm run quickstart
OMP_NUM_THREADS=1 python benchmarks/scaling.py outputs/quickstart outputs/scaling   # goes on where it stopped
fourm watch outputs/scaling/large-{last}                                            # the curves of one run
```
"""


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


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """The held-out losses of complete runs."""
    runs = []
    for model in MODELS:
        for rooms in ROOMS:
            (run,) = load_runs([place(options, model, rooms)])
            points = [(float(r["tokens"]), float(r["loss"])) for r in run.records if r.get("kind") == "eval"]
            tokens, losses = (list(values) for values in zip(*points, strict=True))
            runs.append(
                {
                    "model": model, "trunk_parameters": parameters(place(options, model, rooms)), "rooms": rooms,
                    "tokens": tokens, "held_out_loss": losses,
                }
            )  # fmt: skip
    return {"steps": options.steps, "batch": options.batch, "held_out_rooms": options.samples, "runs": runs}


def table(results: dict[str, Any]) -> str:
    """The last losses: a model per row, an amount of data per column."""
    lines = [
        "| model | parameters of its layers | " + " | ".join(f"{rooms:,} rooms" for rooms in ROOMS) + " |",
        "|---" * (2 + len(ROOMS)) + "|",
    ]
    for model in MODELS:
        own = [run for run in results["runs"] if run["model"] == model]
        losses = " | ".join(f"{run['held_out_loss'][-1]:.3f}" for run in own)
        lines.append(f"| {model}, {MODELS[model]['dim']} wide | {own[0]['trunk_parameters']:,} | {losses} |")
    return "\n".join(lines)


def reading(results: dict[str, Any]) -> str:
    """What the table says."""
    last = {(run["model"], run["rooms"]): run["held_out_loss"][-1] for run in results["runs"]}
    better = sum(_falls([last[model, rooms] for model in MODELS]) for rooms in ROOMS)
    richer = sum(_falls([last[model, rooms] for rooms in ROOMS]) for model in MODELS)
    return (
        f"The loss falls with the size of the model on {better} of {len(ROOMS)} amounts of rooms, and with the rooms "
        f"for {richer} of {len(MODELS)} models."
    )


def _falls(losses: list[float]) -> bool:
    return all(before > after for before, after in pairwise(losses))


def pictures(results: dict[str, Any]) -> dict[str, str]:
    """Name -> the curves of all models on most rooms, and of the largest model on all amounts, as SVG."""
    lines = {(run["model"], run["rooms"]): (run["tokens"], run["held_out_loss"]) for run in results["runs"]}
    largest, most = list(MODELS)[-1], ROOMS[-1]
    drawn = {
        "models": ({model: lines[model, most] for model in MODELS}, f"Three models on {most:,} rooms"),
        "rooms": ({f"{n:,} rooms": lines[largest, n] for n in ROOMS}, f"The {largest} model on three amounts of rooms"),
    }
    return {
        name: plots.curves(series, title=title, x_label="tokens", y_label="held-out loss")
        for name, (series, title) in drawn.items()
    }


def write_docs(results: dict[str, Any], checkout: Path) -> None:
    """Keep the numbers, and write the page from them."""
    samples = results["steps"] * results["batch"]
    publish(checkout / "benchmarks" / "results" / "scaling.json", json.dumps(results, indent=1) + "\n")
    for name, picture in pictures(results).items():
        # A picture in a page of its own does not know the colour of the text around it: grey can be read on both.
        publish(checkout / "docs" / "pictures" / f"scaling_{name}.svg", picture.replace("currentColor", "#808080"))
    page = PAGE.format(
        tokens=f"{results['runs'][0]['tokens'][-1]:,.0f}",
        steps=results["steps"],
        batch=results["batch"],
        held_out=results["held_out_rooms"],
        fewest=ROOMS[0],
        epochs_fewest=round(samples / ROOMS[0]),
        most=f"{ROOMS[-1]:,}",
        epochs_most=f"{samples / ROOMS[-1]:.1f}",
        table=table(results),
        reading=reading(results),
        last=ROOMS[-1],
    )
    publish(checkout / "docs" / "scaling.md", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quickstart", help="output folder of `fourm run quickstart`")
    parser.add_argument("output", help="folder for the runs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--every", type=int, default=50, help="steps between evaluations")
    parser.add_argument("--samples", type=int, default=96, help="held-out rooms")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="of all runs")
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/scaling.md too")
    options = parser.parse_args()
    for model in MODELS:
        for rooms in ROOMS:
            subprocess.run(command(options, model, rooms), check=True)
    results, out = collect(options), Path(options.output)
    publish(out / "scaling.json", json.dumps(results, indent=1) + "\n")
    for name, picture in pictures(results).items():
        publish(out / f"{name}.svg", picture)
    page_of(load_runs([place(options, m, r) for m in MODELS for r in ROOMS])).save(out / "scaling.html")
    print(table(results))
    if options.docs:
        write_docs(results, CHECKOUT)


if __name__ == "__main__":
    main()
