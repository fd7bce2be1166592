"""What models of visual sentences of rooms make of examples: the perplexity of their answers, task by task.

    python -m fourm pretrain lvm_rooms                    # tokenizer and sentences as docs/lvm.md says
    python -m fourm pretrain delvm_rooms_teacher          # what is not there is not measured
    python -m fourm pretrain delvm_rooms
    python -m fourm pretrain delvm_rooms objective.kind=autoregressive output=outputs/quickstart/delvm_alone
    python benchmarks/lvm_shots.py outputs/quickstart --docs

The answers are the same whatever the number of examples, and so are the examples for all models. Two tables are
printed: the models, and what they make of each task; `--docs` keeps their figures in benchmarks/results, and writes
them into docs/lvm.md. The held-out losses of LVM and DeLVM are not of the same rows: LVM's are cut anywhere, and have
special ids.
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
MODELS = {"lvm": "LVM", "delvm_teacher": "DeLVM's teacher", "delvm": "DeLVM", "delvm_alone": "DeLVM alone"}
"""Folder of the run -> what the tables call it."""
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


def models_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A model per row: size, held-out loss, perplexity of all tasks behind 0, 1, 2 and 3 examples."""
    rows = [
        [
            MODELS[name], f"{found['trunk_parameters']:,}", f"{found['held_out_loss']:.3f}",
            *(f"{found['perplexity']['all'][str(count)]:.2f}" for count in SHOTS),
        ]
        for name, found in results.items()
    ]  # fmt: skip
    head = ["model", "parameters of its layers", "held-out loss", *(f"perplexity, {count} examples" for count in SHOTS)]
    return study.table(head, rows)


def tasks_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A task per row: the perplexity of every model, without examples and behind three."""
    ends = SHOTS[0], SHOTS[-1]
    rows = [
        [task, *(f"{found['perplexity'][task][str(count)]:.2f}" for found in results.values() for count in ends)]
        for task in TASKS
    ]
    return study.table(["task", *(f"{MODELS[name]}, {count}" for name in results for count in ends)], rows)


def reading(results: Mapping[str, Mapping[str, Any]]) -> str:
    """In how many tasks examples help."""
    parts = []
    for name, found in results.items():
        tasks = [found["perplexity"][task] for task in TASKS]
        better = sum(one[str(SHOTS[-1])] < one[str(SHOTS[0])] for one in tasks)
        parts.append(f"{MODELS[name]} in {better}")
    return f"{SHOTS[-1]} examples help {', '.join(parts)} of {len(TASKS)} tasks."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", metavar="quickstart", type=Path, help=f"folder that holds `sentences` and {', '.join(MODELS)}"
    )
    parser.add_argument("--answers", type=int, default=32, help="of each task")
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/lvm.md too")
    options = parser.parse_args()
    sentences = options.source / "sentences" / "test"
    trained = [name for name in MODELS if (options.source / name / "model").is_dir()]
    if not trained:
        parser.error(f"{options.source} holds neither of {', '.join(MODELS)}: train them first, see docs/lvm.md")
    results = {name: measure(options.source / name, sentences, options.answers) for name in trained}
    text = "\n\n".join([models_table(results), reading(results), tasks_table(results)])
    print(text)
    if options.docs:
        study.keep_in_docs("lvm_shots", results, {}, study.CHECKOUT)
        study.write_part(study.CHECKOUT / "docs" / "lvm.md", "lvm_shots.py", text)


if __name__ == "__main__":
    main()
