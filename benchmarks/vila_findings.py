"""What VILA found, looked for at toy size with several seeds: documents or pairs, text or none, language model frozen.

    python -m fourm run quickstart                        # rooms, and the encoder that is the tower
    python -m fourm run vila                              # documents, text tokenizer, language model
    python benchmarks/vila_findings.py outputs/vila outputs/vila_findings --docs

For each seed the projector is trained, then stage 2 on documents, pairs and text, with the documents cut into pairs,
without text, and with a frozen language model; seeds share the language model. For the table of answers, stage 3 of
`fourm run vila` is trained with every seed. These are runs of `fourm pretrain vila_rooms_{1,2,3}`, which go on where
they stopped; those of stage 2 differ in one thing each. What each of them reaches is kept beside it, and not measured
again. `--docs` keeps the figures in benchmarks/results, and writes tables and pictures into docs/vila.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import study
from vila_documents import prepare

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.evaluate.configs import DocumentsEvaluation
from fourm.evaluate.documents import answer, build_documents, evaluate_documents
from fourm.files import publish
from fourm.generate.bundle import Bundle
from fourm.prepare.documents.names import SHOTS
from fourm.recipe.bundle import load_bundle
from fourm.report import plots

Results = Mapping[str, Mapping[str, float]]
"""`SEED/RUN` -> what it reaches."""


@dataclass(frozen=True)
class Run:
    """A training.

    Args:
        recipe: of `fourm pretrain`.
        start: run that it begins from; None: it is given by `fourm run vila`.
        title: in the table of findings; empty: not in it.
        data: data sets that differ from those of the recipe; None: left out.
        frozen: only the projector learns.
        whole: as many steps and rows as the recipe says.
    """

    recipe: str
    start: str | None
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    frozen: bool = False
    whole: bool = False


def documents(place: str, reader: str = "documents") -> dict[str, Any]:
    """A data set of the study; its pictures are those of `fourm prepare documents`."""
    packing = {"kind": "interleaved", "reader": reader, "num_tokens": 192, "pack": True, "bos": "[SOS]", "eos": "[EOS]"}
    return {"path": f"{place}.jsonl", "packing": {**packing, "images": "${variables.documents}/train"}}


CUT = ("stories", "names")
"""Data sets whose documents show several pictures."""
NAMES = {"names": documents("${variables.documents}/train/names")}
TEXT = {"text": documents("${variables.documents}/train/text", "text")}
RUNS: Mapping[str, Run] = {
    "language": Run("rooms_language", None, "language model"),
    "projector": Run("vila_rooms_1", "language", "stage 1"),
    "documents": Run("vila_rooms_2", "projector", "stage 2", {**NAMES, **TEXT}),
    "pairs": Run(
        "vila_rooms_2", "projector", "cut into pairs",
        {name: documents(f"${{variables.made}}/{name}") for name in CUT} | TEXT,
    ),
    "no_text": Run("vila_rooms_2", "projector", "without text", NAMES),
    "frozen": Run("vila_rooms_2", "projector", "frozen", {**NAMES, **TEXT}, frozen=True),
    "stage_2": Run("vila_rooms_2", None, ""),
    "chat": Run("vila_rooms_3", "stage_2", "", whole=True),
}  # fmt: skip
"""In an order in which each begins from one before it. All seeds share the language model."""
STEPS = [80, 250]
SHOWN = {"names": "Names that a document binds", "text": "Questions about text"}


def recipe(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of a run, upon the one that is shipped."""
    run, root = RUNS[name], options.source.absolute()
    assert run.start is not None
    steps = options.steps[run.recipe == "vila_rooms_2"]
    given: dict[str, Any] = {
        "base": str(study.CHECKOUT / "cfgs" / "pretrain" / f"{run.recipe}.yaml"),
        "variables": {
            "root": str(root), "tower": str(options.tower.absolute()), "made": str(options.output.absolute()),
        },
        "seed": seed,
        "init_from": str(folder(run.start, seed, options).absolute()),
        "data": {"train": {"datasets": dict(run.data)}},
        "train": {"tensorboard": False},
        "output": str(folder(name, seed, options).absolute()),
    }  # fmt: skip
    if not run.whole:
        given["train"] |= {"max_steps": steps, "batch_size": options.batch}
        given["train"] |= {"eval_every_steps": steps, "save_every_steps": max(steps // 2, 1)}
    if run.frozen:
        given["train"]["trainable"] = ["input_embedder.feeders.image.pooler.*"]
    return given


def folder(name: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a run is kept."""
    return Path(options.source if RUNS[name].start is None else options.output / str(seed)) / name


def train(name: str, seed: int, options: argparse.Namespace) -> Path:
    """Train a run, or what is left of it."""
    place = folder(name, seed, options)
    if RUNS[name].start is None:
        return place
    path = options.output / "recipes" / f"{name}_{seed}.yaml"
    publish(path, json.dumps(recipe(name, seed, options), indent=1) + "\n")  # JSON is YAML too
    study.fourm("pretrain", path)
    return place


def measure(place: Path, options: argparse.Namespace) -> dict[str, float]:
    """What a model knows: shares that are answered rightly, and losses in nats a word."""
    bundle, test = load_bundle(place), options.source / "documents" / "test"
    sees, found = "image" in bundle.model.modalities, dict[str, float]()
    tasks = {"questions": True, "names": True, "text_questions": False}
    for task in (task for task, shown in tasks.items() if sees or not shown):
        file = options.output / "test_names.jsonl" if task == "names" else test / f"{task}.jsonl"
        asked = asking(file, test, blind=task == "questions" and place.name == "chat", most=options.questions)
        for kind, values in evaluate_documents(asked, bundle).metrics.items():
            found |= {f"{task}/{kind}/{key}": value for key, value in values.items()}
    for task, reader in {"text": "text", **({"captions": "pairs", "stories": "documents"} if sees else {})}.items():
        found[f"{task}/loss"] = loss(bundle, asking(test / f"{task}.jsonl", test, reader=reader, most=512))
    return found


def asking(
    file: Path, images: Path, *, most: int, reader: Any = "documents", blind: bool = False
) -> DocumentsEvaluation:
    """How documents are measured."""
    packing = InterleavedConfig(num_tokens=512, reader=reader, images=str(images), bos="[SOS]")
    return DocumentsEvaluation(
        "documents", Path("model"), file, packing=packing, blind=blind, num_samples=most, num_pictures=1
    )


def loss(bundle: Bundle, asked: DocumentsEvaluation) -> float:
    """Mean over all words that documents ask last: behind all their pictures."""
    found = list(answer(bundle.model, build_documents(asked, bundle), asked))
    return -sum(one.likelihood for one in found) / sum(len(one.wanted) for one in found)


MEASURES = {
    "names/all/accuracy": ("names: right of all words, %", 100.0, 1),
    **{f"names/{n}_shots/choice_accuracy": (f"right of two, {n} example{'s' * (n > 1)}, %", 100.0, 1) for n in SHOTS},
    "stories/loss": ("loss at the ends of documents", 1.0, 3),
    "captions/loss": ("loss of captions", 1.0, 3),
    "text_questions/all/accuracy": ("questions about text, %", 100.0, 1),
    "text/loss": ("loss of text", 1.0, 3),
}
TEXT_SKILL = "text_questions/all/accuracy"
KINDS = {
    "all": "all",
    "colour": "colour",
    "side": "what is furthest to a side",
    "near": "what is nearest",
    "large": "what is largest",
    "where": "where something is",
    "count": "how many",
}


def values(found: Results, run: str, key: str) -> list[float]:
    """A number of all seeds."""
    return [reached[key] for place, reached in found.items() if place.partition("/")[2] == run and key in reached]


def cell(numbers: Sequence[float], factor: float, digits: int) -> str:
    """Mean and standard deviation."""
    if not numbers:
        return "–"
    shown = np.array(numbers) * factor
    return f"{shown.mean():.{digits}f}" + (f" ± {shown.std(ddof=1):.{digits}f}" if len(shown) > 1 else "")


def findings(found: Results) -> str:
    """What every run reaches that a finding is about."""
    runs = {name: run.title for name, run in RUNS.items() if run.title}
    rows = [
        [title, *(cell(values(found, name, key), factor, digits) for name in runs)]
        for key, (title, factor, digits) in MEASURES.items()
    ]
    return study.table(["", *runs.values()], rows)


def answers(found: Results) -> str:
    """Questions about pictures at the end of all stages."""
    keys = ("accuracy", "blind_accuracy", "baseline_accuracy")
    rows = []
    for kind, title in KINDS.items():
        own = [values(found, "chat", f"questions/{kind}/{key}") for key in keys]
        rows.append([title, *(f"{cell(numbers, 100, 1)} %" for numbers in own[:2]), f"{cell(own[2][:1], 100, 1)} %"])
    return study.table(["questions about", "right", "without the picture", "most frequent answer"], rows)


COMPARED = (
    ("documents instead of pairs", "documents", "pairs", ("names/all/accuracy", "stories/loss", "captions/loss")),
    ("with instead of without text", "documents", "no_text", (TEXT_SKILL, "text/loss", "captions/loss")),
    ("updated instead of frozen", "documents", "frozen", ("names/all/accuracy", "stories/loss", "captions/loss")),
)


def differences(found: Results) -> str:
    """What each finding is worth: differences within a seed."""
    rows = []
    for finding, first, second, keys in COMPARED:
        for key in keys:
            title, factor, digits = MEASURES[key]
            seeds = [place.partition("/")[0] for place in found if place.endswith(f"/{first}")]
            both = [seed for seed in seeds if f"{seed}/{second}" in found]
            gaps = [found[f"{seed}/{first}"][key] - found[f"{seed}/{second}"][key] for seed in both]
            better = sum(gap < 0 if key.endswith("loss") else gap > 0 for gap in gaps)
            rows.append([finding, title, cell(gaps, factor, digits), f"{better} of {len(gaps)}"])
    return study.table(["", "what it does to", "difference", "seeds in which that is better"], rows)


def pictures(found: Results) -> dict[str, str]:
    """The means as SVG."""

    def means(run: str, keys: Sequence[str]) -> list[float]:
        return [100 * float(np.mean(values(found, run, key) or [float("nan")])) for key in keys]

    shots = [f"names/{n}_shots/accuracy" for n in SHOTS]
    return {
        "names": plots.bars(
            [f"{n} example{'s' * (n > 1)}" for n in SHOTS],
            {name: means(name, shots) for name in ("documents", "pairs", "frozen")},
            title="Names that a document binds, right of all words", y_label="%",
        ),
        "text": plots.bars(
            ["language model", "without text", "with text"],
            {"": [means(run, [TEXT_SKILL])[0] for run in ("language", "no_text", "documents")]},
            title="Questions about text that are answered rightly", y_label="%",
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of `fourm run vila`: documents, tokenizers, language")
    parser.add_argument("output", type=Path, help="folder for the runs")
    parser.add_argument("--tower", type=Path, default=Path("outputs/quickstart/model/model"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="of stages 1 and 2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--questions", type=int, default=1000, help="of each kind of documents, to measure by")
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/vila.md too")
    options = parser.parse_args()
    prepare(options.source / "documents", options.output, CUT)
    found: dict[str, dict[str, float]] = {}
    for name in options.runs:
        for seed in options.seeds if RUNS[name].start else options.seeds[:1]:
            path = options.output / str(seed) / f"{name}.json"
            if not path.is_file():
                publish(path, json.dumps(measure(train(name, seed, options), options), indent=1) + "\n")
            found[f"{seed}/{name}"] = json.loads(path.read_text())
    told = {"steps": options.steps, "batch": options.batch, "runs": found}
    shown = [findings(found), differences(found)]
    text = "\n\n".join([answers(found), *shown] if values(found, "chat", TEXT_SKILL) else shown)
    print(text)
    study.keep("vila_findings", told, pictures(found), options.output)
    if options.docs:
        study.keep_in_docs("vila_findings", told, pictures(found), study.CHECKOUT)
        drawn = "\n\n".join(f"![{what}](pictures/vila_findings_{name}.svg)" for name, what in SHOWN.items())
        study.write_part(study.CHECKOUT / "docs" / "vila.md", "vila_findings.py", f"{text}\n\n{drawn}")


if __name__ == "__main__":
    main()
