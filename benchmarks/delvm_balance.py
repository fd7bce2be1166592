"""Ways to train a small task beside large ones, as DeLVM compares them; resumable.

    python -m fourm train-tokenizer toy_vqgan_rooms       # rooms of the quick start
    python benchmarks/delvm_balance.py outputs/quickstart outputs/delvm_balance --docs

Sentences of cfgs/sentences/rooms_tail.yaml are made three times: the small task comes once (`none`), comes again with
the same pictures until it has about as many tokens as the others (`resampling`), or in other crops and mirrored, its
question and answer alike (`augmentation`). The same model reads them, with three seeds. Then OUT/delvm_balance.json
holds the losses on rooms that no model has seen, OUT/tail.svg those of the small task along the way; the table is
printed. `--docs` also keeps the figures in benchmarks/results, and writes table and curves into docs/delvm.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import study
from lvm_shots import pairs_of
from torch import Tensor

from fourm.generate.rows import log_likelihood, shot_perplexity
from fourm.models.folder import load_model
from fourm.report import plots

WAYS: dict[str, tuple[str, ...]] = {
    "none": ("balance.share=1", "augment=null"),
    "resampling": ("augment=null",),
    "augmentation": (),
}
MODEL = {"dim": 64, "mlp_hidden_dim": 172, "decoder_depth": 2, "num_heads": 2}
"""The size of delvm_rooms.yaml, in rows of lvm_rooms.yaml."""
TASKS = ("tail", "depth", "normal")
SEEDS = (0, 1, 2)
Results = list[dict[str, Any]]
"""A record per run."""


def sentences(options: argparse.Namespace) -> Path:
    """The folder of all sentences, with one for each way, and `test` to evaluate on; what is there stays."""
    out, root = Path(options.output) / "sentences", f"variables.root={options.source}"
    for way, changes in WAYS.items():
        study.fourm("prepare", "sentences", "rooms_tail", root, f"output={out / way}", *changes)
    study.fourm(
        "prepare", "sentences", "rooms_tail", root, "variables.split=test", f"output={out / 'test'}", *WAYS["none"],
        *(f"sentences.{task}.num_rows=null" for task in TASKS),
    )  # fmt: skip
    return out


def measure(options: argparse.Namespace, documents: Path, way: str, seed: int) -> dict[str, Any]:
    """All of one run, which evaluates the small task along the way."""
    run = study.pretrain(
        options, "lvm_rooms", f"{way}-{seed}", MODEL,
        f"seed={seed}", f"data.train.datasets.rooms.path={documents / way}",
        f"data.val.datasets.rooms.path={documents / 'test' / 'tail'}", "evaluation.max_samples=null",
        f"train.eval_every_steps={options.steps // options.points}", f"train.save_every_steps={options.steps}",
    )  # fmt: skip
    tokens, tail = study.held_out(run)
    model = load_model(run / "model")
    rows = {task: pairs_of(documents / "test" / task, 4) for task in TASKS}
    return {
        "way": way, "seed": seed, "tokens": tokens, "tail_loss": tail,
        "large_loss": float(np.mean([nats(model, rows[task].flatten(1)) for task in TASKS if task != "tail"])),
        "tail_perplexity": shot_perplexity(model, "visual", rows["tail"], [3])[3],
    }  # fmt: skip


def nats(model: Any, rows: Tensor) -> float:
    """Per token of (B, L) ids, all but the first."""
    return float(-log_likelihood(model, "visual", rows[:, :1], rows[:, 1:]).mean())


def mean(results: Results, way: str, pick: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Over the seeds, and the standard deviation."""
    values = [pick(run) for run in results if run["way"] == way]
    return float(np.mean(values)), float(np.std(values, ddof=1))


COLUMNS: dict[str, Callable[[dict[str, Any]], float]] = {
    "small task, loss": lambda run: run["tail_loss"][-1],
    "its lowest on the way": lambda run: min(run["tail_loss"]),
    "its answers, perplexity": lambda run: run["tail_perplexity"],
    "large tasks, loss": lambda run: run["large_loss"],
}


def table(results: Results) -> str:
    """What the ways reach at the end."""
    return study.table(
        ["balance", *COLUMNS],
        [[way, *("{:.3f} ± {:.3f}".format(*mean(results, way, pick)) for pick in COLUMNS.values())] for way in WAYS],
    )


def reading(results: Results) -> str:
    """What the figures say."""
    found = {way: [run["tail_loss"][-1] for run in results if run["way"] == way] for way in WAYS}
    parts = [
        f"with {way} it is below that without in {sum(a < b for a, b in zip(losses, found['none'], strict=True))}"
        for way, losses in found.items()
        if way != "none"
    ]
    better = sum(a < b for a, b in zip(found["augmentation"], found["resampling"], strict=True))
    return (
        f"The small task's loss at the end, over {len(SEEDS)} seeds: {', '.join(parts)} of {len(SEEDS)}; with "
        f"augmentation below that with resampling in {better}."
    )


def pictures(results: Results) -> dict[str, str]:
    """The small task along the way, means over the seeds."""
    lines = {}
    for way in WAYS:
        own = [run for run in results if run["way"] == way]
        lines[way] = own[0]["tokens"], np.mean([run["tail_loss"] for run in own], 0).tolist()
    return {"tail": plots.curves(lines, title="A small task, unseen rooms", x_label="tokens", y_label="loss")}


def main() -> None:
    parser = study.parser(
        __doc__, "quickstart", "folder that holds `rooms` and `tokenizers/toy_vqgan_rooms`", steps=250, batch=4
    )
    parser.add_argument("--points", type=int, default=5, help="evaluations along the way")
    options = parser.parse_args()
    if options.points < 1 or options.steps % options.points:
        parser.error(f"--steps {options.steps} is no multiple of --points {options.points}")
    documents = sentences(options)
    results = [measure(options, documents, way, seed) for seed in SEEDS for way in WAYS]
    captions = {"tail": "Loss of the small task along the way"}
    texts = [table(results), reading(results)]
    study.tell("delvm_balance", options, results, texts, "delvm.md", pictures(results), captions)


if __name__ == "__main__":
    main()
