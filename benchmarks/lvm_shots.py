"""What models of visual sentences of rooms make of examples: the perplexity of their answers, task by task.

    python -m fourm pretrain lvm_rooms                    # tokenizer and sentences as docs/lvm.md says
    python -m fourm pretrain delvm_rooms                  # if it is not there, LVM alone is measured
    python benchmarks/lvm_shots.py outputs/quickstart --docs

The answers are the same whatever the number of examples, and so are the examples for all models. The table is printed;
`--docs` keeps its figures in benchmarks/results, and writes it into docs/lvm.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from torch import Tensor

from fourm.data.documents import DocumentFile, find_documents
from fourm.generate.rows import shot_perplexity
from fourm.models.folder import load_model

TASKS = ("depth", "normal", "semseg", "edges", "boxes", "colorization", "inpainting")
IMAGE = 64
"""Tokens."""
MODELS = {"lvm": "LVM", "delvm": "DeLVM"}
SHOTS = (0, 1, 2, 3)


def pairs_of(folder: Path, num_pairs: int) -> Tensor:
    """(B, 2 num_pairs, IMAGE) ids of a task's documents of pairs, cut into such sentences; what is left is dropped."""
    found = []
    for file in map(DocumentFile, find_documents(folder)):
        for number in range(len(file)):
            ids = file.read(number)
            size = 2 * num_pairs * IMAGE
            found.append(ids[: len(ids) // size * size].reshape(-1, 2 * num_pairs, IMAGE))
    return torch.from_numpy(np.concatenate(found))


def perplexities(model: Any, sentences: Path, shots: Sequence[int], answers: int) -> dict[str, dict[int, float]]:
    """Task -> number of examples -> perplexity of so many answers behind them."""
    asked = {task: pairs_of(sentences / task, max(shots) + 1)[:answers] for task in TASKS}
    return {task: shot_perplexity(model, "visual", rows, shots) for task, rows in asked.items()}


def mean(found: Mapping[str, Mapping[int, float]], count: int) -> float:
    """Geometric, of all tasks, behind so many examples."""
    return float(np.exp(np.mean([np.log(one[count]) for one in found.values()])))


def measure(run: Path, sentences: Path, answers: int) -> dict[str, Any]:
    """All of one model."""
    tokens, losses = study.held_out(run)
    found = perplexities(load_model(run / "model"), sentences, SHOTS, answers)
    means = {str(count): mean(found, count) for count in SHOTS}
    return {
        "trunk_parameters": study.trunk_parameters(run), "tokens": tokens[-1], "held_out_loss": losses[-1],
        "perplexity": {**{task: {str(k): v for k, v in one.items()} for task, one in found.items()}, "all": means},
    }  # fmt: skip


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A task per row, behind 0, 1, 2 and 3 examples."""
    head = [f"{MODELS[name]}, {count}" for name in results for count in SHOTS]
    rows = []
    for task in (*TASKS, "all"):
        found = [results[name]["perplexity"][task][str(count)] for name in results for count in SHOTS]
        rows.append([task, *(f"{value:.2f}" for value in found)])
    return study.table(["task", *head], rows)


def reading(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What was measured, and in how many tasks examples help."""
    parts = []
    for name, found in results.items():
        loss, tasks = found["held_out_loss"], [found["perplexity"][task] for task in TASKS]
        better = sum(one[str(SHOTS[-1])] < one["0"] for one in tasks)
        parts.append(
            f"{MODELS[name]} ({found['trunk_parameters']:,} parameters in its layers) reaches a held-out loss of "
            f"{loss:.3f}, a perplexity of {np.exp(loss):.1f}, and {SHOTS[-1]} examples help it in {better} of "
            f"{len(tasks)} tasks."
        )
    return " ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", metavar="quickstart", help="folder that holds `lvm`, `delvm` and `sentences`", type=Path
    )
    parser.add_argument("--answers", type=int, default=32, help="of each task")
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/lvm.md too")
    options = parser.parse_args()
    sentences = options.source / "sentences" / "test"
    trained = [name for name in MODELS if (options.source / name / "model").is_dir()]
    if not trained:
        parser.error(f"{options.source} holds neither of {', '.join(MODELS)}: train them first, see docs/lvm.md")
    results = {name: measure(options.source / name, sentences, options.answers) for name in trained}
    text = f"{reading(results)}\n\n{table(results)}"
    print(text)
    if options.docs:
        study.keep_in_docs("lvm_shots", results, {}, study.CHECKOUT)
        study.write_part(study.CHECKOUT / "docs" / "lvm.md", "lvm_shots.py", text)


if __name__ == "__main__":
    main()
