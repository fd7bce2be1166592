"""The scaling study at toy size: three models and three amounts of data on rooms, at equal tokens; resumable.

    python -m fourm run quickstart                       # rooms, tokenizers, tokens
    python benchmarks/scaling.py outputs/quickstart outputs/scaling --docs

Runs of `fourm pretrain rooms`, with three seeds. Then OUT/scaling.json holds the held-out losses, OUT/scaling.html all
curves, OUT/models.svg and OUT/rooms.svg the mean ones of all models and of all amounts of data; the table is printed.
`--docs` also keeps the numbers in benchmarks/results and writes docs/scaling.md from them.
"""

from __future__ import annotations

import argparse
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import study

from fourm.files import publish
from fourm.report import plots
from fourm.report.curves import page_of

MODELS: dict[str, dict[str, int]] = {
    "small": {"dim": 24, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 1},
    "middle": {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 1},
    "large": {"dim": 64, "encoder_depth": 3, "decoder_depth": 2, "num_heads": 1},
}
ROOMS = (80, 160, 1000)
SEEDS = (0, 1, 2)
PAGE = """# Scaling

Three sizes of the quick start's model, each trained on three amounts of its rooms with three seeds, always for the
same {tokens} tokens ({steps} steps of {batch} rooms): `benchmarks/scaling.py`, which wrote this page. What counts is
the loss on {held_out} rooms that none of them has seen: nats per predicted token, over all modalities. Of {fewest}
rooms, each is seen {epochs_fewest} times, masked anew each time; of {most}, {epochs_most} times. Means and standard
deviations over the seeds, each of which masks the held-out rooms in its own way, for all its runs alike: that moves
all of them together, and a step is best read within a seed:

{table}

{reading}

![Held-out loss of three models on {most} rooms](pictures/scaling_models.svg)

![Held-out loss of the largest model on three amounts of rooms](pictures/scaling_rooms.svg)

Sizes and amounts were chosen by earlier grids with one seed, which show where the rule ends. Of 60 rooms, a model 128
wide (1.3 million parameters) learned enough by heart to lose: 4.623 on 96 held-out rooms, where one of 64 had 4.396.
Between 1,000 and 4,000 rooms, which were seen 6.4 and 1.6 times, there was hardly more to gain: .007, .013 and -.003
for models 32, 64 and 128 wide. And one of 16 with two blocks gained .034 from 80 to 200 rooms, and .001 from there to
1,000.

```bash
fourm run quickstart
OMP_NUM_THREADS=1 python benchmarks/scaling.py outputs/quickstart outputs/scaling   # goes on where it stopped
fourm watch outputs/scaling/large-{last}-0                                            # the curves of one run
```
"""


def train(options: argparse.Namespace, model: str, rooms: int, seed: int) -> None:
    """The run of one model on so many rooms."""
    study.pretrain(
        options,
        "rooms",
        place(model, rooms, seed),
        MODELS[model],
        f"seed={seed}",
        f"data.train.datasets.rooms.max_samples={rooms}",
        f"train.eval_every_steps={options.every}",
        f"train.save_every_steps={options.every}",
        "train.pictures_every_steps=null",
        "pictures.given=[]",
        f"evaluation.max_samples={options.samples}",
    )


def place(model: str, rooms: int, seed: int) -> str:
    return f"{model}-{rooms}-{seed}"


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """The held-out losses of complete runs."""
    runs = []
    for model, rooms, seed in product(MODELS, ROOMS, SEEDS):
        run = Path(options.output) / place(model, rooms, seed)
        tokens, losses = study.held_out(run)
        runs.append(
            {
                "model": model, "trunk_parameters": study.trunk_parameters(run), "rooms": rooms, "seed": seed,
                "tokens": tokens, "held_out_loss": losses,
            }
        )  # fmt: skip
    return {"steps": options.steps, "batch": options.batch, "held_out_rooms": options.samples, "runs": runs}


def losses(results: dict[str, Any], model: str, rooms: int) -> np.ndarray:
    """(seeds, evaluations) of the held-out loss."""
    return np.array([r["held_out_loss"] for r in results["runs"] if (r["model"], r["rooms"]) == (model, rooms)])


def table(results: dict[str, Any]) -> str:
    """The last losses: a model per row, an amount of data per column."""
    rows = []
    for model in MODELS:
        parameters = next(run["trunk_parameters"] for run in results["runs"] if run["model"] == model)
        last = [losses(results, model, rooms)[:, -1] for rooms in ROOMS]
        cells = [f"{one.mean():.3f} ± {one.std(ddof=1):.3f}" for one in last]
        rows.append([f"{model}, {MODELS[model]['dim']} wide", f"{parameters:,}", *cells])
    return study.table(["model", "parameters of its layers", *(f"{rooms:,} rooms" for rooms in ROOMS)], rows)


def reading(results: dict[str, Any]) -> str:
    """What the table says."""
    last = {(m, n): losses(results, m, n)[:, -1] for m, n in product(MODELS, ROOMS)}
    larger = [((a, n), (b, n)) for (a, b), n in product(pairwise(MODELS), ROOMS)]
    richer = [((m, a), (m, b)) for (a, b), m in product(pairwise(ROOMS), MODELS)]
    means = [sum(last[b].mean() < last[a].mean() for a, b in steps) for steps in (larger, richer)]
    single = [sum(int((last[b] < last[a]).sum()) for a, b in steps) for steps in (larger, richer)]
    said = (
        f"The mean loss falls in {means[0]} of {len(larger)} steps to a larger model and in {means[1]} of "
        f"{len(richer)} steps to more rooms, that of a single seed in {single[0]} of {len(larger) * len(SEEDS)} and in "
        f"{single[1]} of {len(richer) * len(SEEDS)}"
    )
    against = [f"from {name(a)} to {name(b)}" for a, b in larger + richer if last[b].mean() >= last[a].mean()]
    return f"{said}; the mean does not {', nor '.join(against)}." if against else f"{said}."


def name(cell: tuple[str, int]) -> str:
    """Of a model and its rooms."""
    return f"{cell[0]} on {cell[1]:,} rooms"


def pictures(results: dict[str, Any]) -> dict[str, str]:
    """Name -> the curves of all models on most rooms, and of the largest model on all amounts, as SVG: means."""
    tokens = results["runs"][0]["tokens"]
    largest, most = list(MODELS)[-1], ROOMS[-1]
    drawn = {
        "models": ({m: (m, most) for m in MODELS}, f"Three models on {most:,} rooms"),
        "rooms": ({f"{n:,} rooms": (largest, n) for n in ROOMS}, f"The {largest} model on three amounts of rooms"),
    }
    return {
        key: plots.curves(
            {line: (tokens, losses(results, *cell).mean(0).tolist()) for line, cell in lines.items()},
            title=title, x_label="tokens", y_label="held-out loss",
        )
        for key, (lines, title) in drawn.items()
    }  # fmt: skip


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
    parser.add_argument("--samples", type=int, default=192, help="held-out rooms")
    options = parser.parse_args()
    for seed, model, rooms in product(SEEDS, MODELS, ROOMS):
        train(options, model, rooms, seed)
    results, out = collect(options), Path(options.output)
    study.keep("scaling", results, pictures(results), out)
    page_of([study.log_of(out / place(*run)) for run in product(MODELS, ROOMS, SEEDS)]).save(out / "scaling.html")
    print(table(results))
    if options.docs:
        write_docs(results, study.CHECKOUT)


if __name__ == "__main__":
    main()
