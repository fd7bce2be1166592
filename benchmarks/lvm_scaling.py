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
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from torch import Tensor

from fourm.data.documents import DocumentFile, find_documents
from fourm.generate.rows import shot_perplexity
from fourm.models.folder import load_model
from fourm.recipe.export import export
from fourm.report import plots

SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 16, "mlp_hidden_dim": 44, "decoder_depth": 1, "num_heads": 1},
    "middle": {"dim": 32, "mlp_hidden_dim": 88, "decoder_depth": 2, "num_heads": 1},
    "large": {"dim": 64, "mlp_hidden_dim": 172, "decoder_depth": 3, "num_heads": 2},
}
TASKS = ("depth", "normal", "semseg", "edges", "boxes", "colorization", "inpainting")
SHOTS = (0, 1, 3)
IMAGE = 64
"""Tokens."""
ANSWERS = 16
"""Of each task."""
Results = list[dict[str, Any]]
"""A record per size, which holds lists over checkpoints."""


def pairs_of(folder: Path, num_pairs: int) -> Tensor:
    """(B, 2 num_pairs, IMAGE) ids of a task's documents of pairs, cut into such sentences; what is left is dropped."""
    found = []
    for file in map(DocumentFile, find_documents(folder)):
        for number in range(len(file)):
            ids = file.read(number)
            size = 2 * num_pairs * IMAGE
            found.append(ids[: len(ids) // size * size].reshape(-1, 2 * num_pairs, IMAGE))
    return torch.from_numpy(np.concatenate(found))


def perplexity(model: Any, sentences: Path) -> dict[int, float]:
    """Examples -> perplexity of answers behind them: the geometric mean of all tasks."""
    asked = [pairs_of(sentences / task, max(SHOTS) + 1)[:ANSWERS] for task in TASKS]
    found = [shot_perplexity(model, "visual", one, SHOTS) for one in asked]
    return {count: float(np.exp(np.mean([np.log(one[count]) for one in found]))) for count in SHOTS}


def measure(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """All of one size."""
    run = study.pretrain(
        options, "lvm_rooms", size, SIZES[size],
        f"train.eval_every_steps={options.steps // (2 * options.points)}",
        f"train.save_every_steps={options.steps // options.points}", f"train.keep_checkpoints={options.points}",
    )  # fmt: skip
    tokens, losses = study.held_out(run)
    steps = [options.steps * (point + 1) // options.points for point in range(options.points)]
    found = [perplexity(checkpoint(run, step), Path(options.source) / "sentences" / "test") for step in steps]
    return {
        "size": size, "dim": SIZES[size]["dim"], "trunk_parameters": study.trunk_parameters(run),
        "tokens": tokens, "held_out_loss": losses, "prompted_at": [tokens[-1] * step / options.steps for step in steps],
        "perplexity": {str(count): [one[count] for one in found] for count in SHOTS},
    }  # fmt: skip


def checkpoint(run: Path, step: int) -> Any:
    """The model of a run as it was after so many steps."""
    place = run / "steps" / str(step)
    if not (place / "config.json").is_file():
        export(str(run / "checkpoints" / f"step-{step:08d}"), place)
    return load_model(place)


def table(results: Results) -> str:
    """What the sizes reach at the end."""
    return study.table(
        ["model", "parameters of its layers", "held-out loss", *(f"perplexity, {count} examples" for count in SHOTS)],
        [
            [
                f"{row['size']}, {row['dim']} wide", f"{row['trunk_parameters']:,}", f"{row['held_out_loss'][-1]:.3f}",
                *(f"{row['perplexity'][str(count)][-1]:.1f}" for count in SHOTS),
            ]
            for row in results
        ],
    )  # fmt: skip


def reading(results: Results) -> str:
    """What the figures say."""
    pairs, most = list(pairwise(results)), str(SHOTS[-1])
    falls = sum(before["held_out_loss"][-1] > after["held_out_loss"][-1] for before, after in pairs)
    better = sum(before["perplexity"][most][-1] > after["perplexity"][most][-1] for before, after in pairs)
    examples = sum(row["perplexity"][most][-1] < row["perplexity"]["0"][-1] for row in results)
    return (
        f"From one size to the next, the loss falls in {falls} of {len(pairs)} steps and the perplexity behind {most} "
        f"examples in {better}. It is below the one without examples for {examples} of {len(results)} models."
    )


def pictures(results: Results) -> dict[str, str]:
    """The curves as SVG."""
    names = {row["size"]: f"{row['size']}, {row['trunk_parameters'] / 1e3:,.0f} k" for row in results}
    losses = {names[row["size"]]: (row["tokens"], row["held_out_loss"]) for row in results}
    prompted = {
        f"{row['size']}, {count} examples": (row["prompted_at"], row["perplexity"][str(count)])
        for row in results
        for count in (SHOTS[0], SHOTS[-1])
    }
    return {
        "loss": plots.curves(losses, title="LVM at three sizes", x_label="tokens", y_label="held-out loss"),
        "perplexity": plots.curves(prompted, title="Their answers", x_label="tokens", y_label="perplexity"),
    }


def main() -> None:
    parser = study.parser(
        __doc__, "quickstart", "folder that holds `tokenizers/toy_vqgan_rooms` and `sentences`", steps=1000, batch=4
    )
    parser.add_argument("--points", type=int, default=4, help="checkpoints that are prompted, evenly spaced")
    options = parser.parse_args()
    if options.points < 1 or options.steps % (2 * options.points):
        parser.error(f"--steps {options.steps} is no multiple of twice --points {options.points}")
    results = [measure(options, size) for size in SIZES]
    study.keep("lvm_scaling", results, pictures(results), Path(options.output))
    print(table(results))
    if options.docs:
        study.keep_in_docs("lvm_scaling", results, pictures(results), study.CHECKOUT)
        shown = {"loss": "Held-out loss", "perplexity": "Perplexity of answers, without examples and behind three"}
        drawn = "\n\n".join(f"![{what}](pictures/lvm_scaling_{name}.svg)" for name, what in shown.items())
        text = f"{table(results)}\n\n{reading(results)}\n\n{drawn}"
        study.write_part(study.CHECKOUT / "docs" / "lvm.md", "lvm_scaling.py", text)


if __name__ == "__main__":
    main()
