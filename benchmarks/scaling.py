"""The scaling study at toy size: three models and four amounts of data on rooms, at equal tokens; resumable.

    python -m fourm run quickstart                       # rooms, tokenizers, tokens
    python benchmarks/scaling.py outputs/quickstart outputs/scaling --docs

Twelve runs of `fourm pretrain rooms`. Then OUT/scaling.json holds the held-out losses, OUT/scaling.html all curves,
OUT/models.svg and OUT/rooms.svg those of all models and of all amounts of data; the table is printed. `--docs` also
keeps the numbers in benchmarks/results and writes docs/scaling.md from them. About 30 minutes of one core
(OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import study

from fourm.files import publish
from fourm.report import plots
from fourm.report.curves import page_of

MODELS: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 1},
    "middle": {"dim": 64, "encoder_depth": 3, "decoder_depth": 2, "num_heads": 1},
    "large": {"dim": 128, "encoder_depth": 4, "decoder_depth": 2, "num_heads": 2},
}
ROOMS = (60, 250, 1000, 4000)
PAGE = """# Scaling

Three sizes of the quick start's model, each trained on four amounts of its rooms, always for the same {tokens} tokens
({steps} steps of {batch} rooms): `benchmarks/scaling.py`, which wrote this page. What counts is the loss on {held_out}
rooms that none of them has seen, with the same masks for all: nats per predicted token, over all modalities. Of
{fewest} rooms, each is seen {epochs_fewest} times, masked anew each time; of {most}, {epochs_most} times.

{table}

{reading}

![Held-out loss of three models on {most} rooms](pictures/scaling_models.svg)

![Held-out loss of the largest model on four amounts of rooms](pictures/scaling_rooms.svg)

```bash
fourm run quickstart
OMP_NUM_THREADS=1 python benchmarks/scaling.py outputs/quickstart outputs/scaling   # goes on where it stopped
fourm watch outputs/scaling/large-{last}                                            # the curves of one run
```
"""


def train(options: argparse.Namespace, model: str, rooms: int) -> None:
    """The run of one model on so many rooms."""
    study.pretrain(
        options,
        "rooms",
        place(model, rooms),
        MODELS[model],
        f"data.train.datasets.rooms.max_samples={rooms}",
        f"train.eval_every_steps={options.every}",
        f"train.save_every_steps={options.every}",
        "train.pictures_every_steps=null",
        "pictures.given=[]",
        f"evaluation.max_samples={options.samples}",
    )


def place(model: str, rooms: int) -> str:
    return f"{model}-{rooms}"


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """The held-out losses of complete runs."""
    runs = []
    for model in MODELS:
        for rooms in ROOMS:
            run = Path(options.output) / place(model, rooms)
            tokens, losses = study.held_out(run)
            runs.append(
                {
                    "model": model, "trunk_parameters": study.trunk_parameters(run), "rooms": rooms,
                    "tokens": tokens, "held_out_loss": losses,
                }
            )  # fmt: skip
    return {"steps": options.steps, "batch": options.batch, "held_out_rooms": options.samples, "runs": runs}


def table(results: dict[str, Any]) -> str:
    """The last losses: a model per row, an amount of data per column."""
    rows = []
    for model in MODELS:
        own = [run for run in results["runs"] if run["model"] == model]
        losses = [f"{run['held_out_loss'][-1]:.3f}" for run in own]
        rows.append([f"{model}, {MODELS[model]['dim']} wide", f"{own[0]['trunk_parameters']:,}", *losses])
    return study.table(["model", "parameters of its layers", *(f"{rooms:,} rooms" for rooms in ROOMS)], rows)


def reading(results: dict[str, Any]) -> str:
    """What the table says."""
    last = {(run["model"], run["rooms"]): run["held_out_loss"][-1] for run in results["runs"]}
    sizes, amounts = list(pairwise(MODELS)), list(pairwise(ROOMS))
    larger = sum(last[b, rooms] < last[a, rooms] for a, b in sizes for rooms in ROOMS)
    richer = sum(last[model, b] < last[model, a] for a, b in amounts for model in MODELS)
    against = [f"from {a} to {b} on {n:,} rooms" for a, b in sizes for n in ROOMS if last[b, n] >= last[a, n]]
    against += [
        f"from {a:,} to {b:,} rooms with the {m} model" for a, b in amounts for m in MODELS if last[m, b] >= last[m, a]
    ]
    said = (
        f"The loss falls in {larger} of {len(sizes) * len(ROOMS)} steps to a larger model and in {richer} of "
        f"{len(amounts) * len(MODELS)} steps to more rooms"
    )
    if not against:
        return f"{said}."
    return (
        f"{said}; not {', not '.join(against)}. A model that learns few rooms by heart loses by its size, and runs too "
        "short to see most rooms twice gain nothing from more."
    )


def pictures(results: dict[str, Any]) -> dict[str, str]:
    """Name -> the curves of all models on most rooms, and of the largest model on all amounts, as SVG."""
    lines = {(run["model"], run["rooms"]): (run["tokens"], run["held_out_loss"]) for run in results["runs"]}
    largest, most = list(MODELS)[-1], ROOMS[-1]
    drawn = {
        "models": ({model: lines[model, most] for model in MODELS}, f"Three models on {most:,} rooms"),
        "rooms": ({f"{n:,} rooms": lines[largest, n] for n in ROOMS}, f"The {largest} model on four amounts of rooms"),
    }
    return {
        name: plots.curves(series, title=title, x_label="tokens", y_label="held-out loss")
        for name, (series, title) in drawn.items()
    }


def write_docs(results: dict[str, Any], checkout: Path) -> None:
    """Keep the numbers, and write the page from them."""
    samples = results["steps"] * results["batch"]
    study.keep_in_docs("scaling", results, pictures(results), checkout)
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
    parser = study.parser(__doc__, "quickstart", "output folder of `fourm run quickstart`", steps=400, batch=16)
    parser.add_argument("--every", type=int, default=50, help="steps between evaluations")
    parser.add_argument("--samples", type=int, default=96, help="held-out rooms")
    options = parser.parse_args()
    for model in MODELS:
        for rooms in ROOMS:
            train(options, model, rooms)
    results, out = collect(options), Path(options.output)
    study.keep("scaling", results, pictures(results), out)
    page_of([study.log_of(out / place(m, r)) for m in MODELS for r in ROOMS]).save(out / "scaling.html")
    print(table(results))
    if options.docs:
        write_docs(results, study.CHECKOUT)


if __name__ == "__main__":
    main()
