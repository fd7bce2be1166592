"""What the pretrained encoders of the quick start and of Fashion-MNIST are worth as backbones, with three seeds.

    python benchmarks/transfer.py --quickstart outputs/quickstart --fashion outputs/fashion
    python benchmarks/transfer.py --only rooms/semseg --seeds 0
    python benchmarks/transfer.py --list

Every run is a `fourm finetune` of its own, at the same budget for the pretrained network and the same one from
scratch. Results are added to `benchmarks/results/transfer.json` after each run, and a run that is there is not done
again: the same command goes on where it was stopped. At the end comes a table of means and spreads. The rooms are
rendered first, with seeds that no pretraining data has.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRATCH = ("pretrained=false",)
ROOMS = {"train": (1000, 100), "test": (200, 101)}
LABELS = (600, 6000, 60000)


@dataclass(frozen=True)
class Run:
    """One network to train.

    Args:
        name: `data/task/variant`; the part before the last slash names what is compared.
        recipe: of `fourm finetune`, or `knn` for nearest neighbours with the recipe behind it.
        overrides: over it.
        seeded: false for what draws nothing.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    seeded: bool = True


def runs() -> list[Run]:
    """All that is compared."""
    found = []
    for task in ("semseg", "depth", "normal", "detection"):
        found += [
            Run(f"rooms/{task}/pretrained", f"rooms_{task}"),
            Run(f"rooms/{task}/scratch", f"rooms_{task}", SCRATCH),
        ]
    for variant, extra in (("pretrained", ()), ("scratch", SCRATCH)):
        found.append(Run(f"rooms/semseg_rgbd/{variant}", "rooms_semseg_rgbd", extra))
    found.append(Run("rooms/semseg_rgbd/without_depth", "rooms_semseg_rgbd", ("evaluation.hidden=[depth@64]",)))
    found.append(Run("rooms/semseg_predicted_depth/pretrained", "rooms_semseg_predicted"))
    for count in LABELS:
        limit = f"data.train.datasets.fashion.max_samples={count}"
        # A part of the labels needs fewer steps; the budget is the same for both networks.
        steps = f"train.max_steps={min(3000, max(300, count // 20))}"
        found += [
            Run(f"fashion/{count}_labels/pretrained", "fashion", (limit, steps)),
            Run(f"fashion/{count}_labels/scratch", "fashion", (limit, steps, *SCRATCH)),
        ]
    found += [
        Run("fashion/60000_labels/linear_probe", "fashion_linear"),
        Run("fashion/60000_labels/attentive_probe", "fashion_attentive"),
        Run("fashion/60000_labels/nearest_neighbours", "knn fashion", seeded=False),
    ]
    return found


def command(run: Run, seed: int, options: argparse.Namespace, output: Path) -> list[str]:
    """The command line of a run."""
    words = ["evaluate", "knn", run.recipe.split()[1]] if run.recipe.startswith("knn ") else ["finetune", run.recipe]
    if run.name.startswith("rooms/"):
        data = "coco" if "/detection/" in run.name else "rooms"
        places = [f"variables.root={options.quickstart}", f"variables.data={options.work}/{data}"]
    else:
        places = [f"variables.root={options.fashion}"]
    return [
        sys.executable, "-m", "fourm", *words, *places, *run.overrides, f"seed={seed}", f"output={output}",
        "train.tensorboard=false", *options.override,
    ]  # fmt: skip


def prepare(options: argparse.Namespace) -> None:
    """Render the rooms; what is complete stays."""
    for split, (number, seed) in ROOMS.items():
        words = ["prepare", "rooms", f"{options.work}/rooms/{split}", "--num", str(number), "--seed", str(seed)]
        subprocess.run([sys.executable, "-m", "fourm", *words], check=True)
        words = ["prepare", "coco", f"{options.work}/rooms/{split}", f"{options.work}/coco/{split}"]
        subprocess.run([sys.executable, "-m", "fourm", *words], check=True)


def measure(run: Run, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and read the last evaluation."""
    output = options.work / "runs" / run.name / str(seed)
    began = time.perf_counter()
    done = subprocess.run(
        command(run, seed, options, output),
        check=True,
        stdout=subprocess.PIPE if "knn" in run.recipe else None,
        text=True,
    )
    if run.recipe.startswith("knn "):
        metrics = {
            line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("knn/")
        }
    else:
        metrics = json.loads((output / "completed.json").read_text())["metrics"]
    return {"seconds": round(time.perf_counter() - began, 1), "metrics": metrics}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: mean and spread over seeds of every metric but the loss."""
    lines = ["| run | seeds | results (mean +- standard deviation) | seconds |", "|---|---|---|---|"]
    for name, seeds in results.items():
        cells = []
        for metric in next(iter(seeds.values()))["metrics"]:
            if metric != "loss":
                values = [entry["metrics"][metric] for entry in seeds.values()]
                mean = sum(values) / len(values)
                spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0
                cells.append(f"{metric} {mean:.4g} +- {spread:.2g}")
        seconds = sum(entry["seconds"] for entry in seeds.values()) / len(seeds)
        lines.append(f"| {name} | {len(seeds)} | {', '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--fashion", type=Path, default=Path("outputs/fashion"))
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/transfer"), help="rendered rooms and trained networks"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "transfer.json")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    parser.add_argument("--override", action="append", default=[], help="KEY=VALUE for every run")
    parser.add_argument("--list", action="store_true", help="show the runs and stop")
    options = parser.parse_args()
    chosen = [run for run in runs() if run.name.startswith(options.only)]
    if options.list:
        print("\n".join(run.name for run in chosen))
        return
    results = json.loads(options.results.read_text()) if options.results.is_file() else {}
    if any(run.name.startswith("rooms/") for run in chosen):
        prepare(options)
    for seed in map(int, options.seeds.split(",")):
        for run in chosen:
            seeds = results.setdefault(run.name, {})
            if str(seed) in seeds or (seeds and not run.seeded):
                continue
            print(f"{run.name}, seed {seed}", flush=True)
            seeds[str(seed)] = measure(run, seed, options)
            options.results.parent.mkdir(parents=True, exist_ok=True)
            partial = options.results.with_suffix(".tmp")
            partial.write_text(json.dumps(results, indent=1) + "\n")
            partial.replace(options.results)
    print(table({name: seeds for name, seeds in results.items() if seeds}))


if __name__ == "__main__":
    main()
