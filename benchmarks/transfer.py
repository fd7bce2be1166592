"""What the pretrained encoders of the quick start and of Fashion-MNIST are worth as backbones, with three seeds.

    python benchmarks/transfer.py --quickstart outputs/quickstart --fashion outputs/fashion --jobs 2
    python benchmarks/transfer.py --only rooms/semseg --seeds 0
    python benchmarks/transfer.py --list

Every run is a `fourm finetune` of its own on one core, with the same data, steps and peak rate for the pretrained
network and the same one from scratch. Results are added to `benchmarks/results/transfer.json` after each run, and a run
that is there is not done again: the same command goes on where it was stopped, in the middle of a run too. At the end
tables of means and spreads are written into docs/transfer.md. The rooms are rendered first, with seeds that no
pretraining data has.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study import write_part
from transfer_tables import tables

HERE = Path(__file__).resolve().parent
# Layers of a network from scratch have no reason to learn at different rates.
SCRATCH = ("pretrained=false", "layer_decay=1.0")
ROOMS = {"train": (1000, 100), "test": (200, 101)}
LABELS = {600: 200, 6000: 400, 60000: 1200}
"""Labels of Fashion-MNIST -> steps of the comparisons."""
PROBE = ("train.max_steps=500",)


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
    for count, steps in LABELS.items():
        part = (f"data.train.datasets.fashion.max_samples={count}", f"train.max_steps={steps}")
        found += [
            Run(f"fashion/{count}_labels/pretrained", "fashion", part),
            Run(f"fashion/{count}_labels/scratch", "fashion", (*part, *SCRATCH)),
        ]
    found += [
        Run("fashion/60000_labels/fine_tuned_longer", "fashion", seeded=False),
        Run("fashion/60000_labels/linear_probe", "fashion_linear", (*PROBE, "train.optimizer.lr=1e-2")),
        Run("fashion/60000_labels/attentive_probe", "fashion_attentive", (*PROBE, "train.optimizer.lr=3e-3")),
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
        rooms = f"{options.work}/rooms/{split}"
        for words in (
            ["rooms", rooms, "--num", str(number), "--seed", str(seed)],
            ["coco", rooms, f"{options.work}/coco/{split}"],
        ):
            subprocess.run([sys.executable, "-m", "fourm", "prepare", *words], check=True)


@dataclass
class Study:
    """Results so far, and what is running.

    Args:
        options: of the command line.
        results: run -> seed -> metrics, seconds by the clock and of a processor.
    """

    options: argparse.Namespace
    results: dict[str, dict[str, Any]]
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: set[subprocess.Popen[str]] = field(default_factory=set)
    stopped: bool = False

    def missing(self, chosen: list[Run]) -> list[tuple[Run, int]]:
        """What is to be done, seed by seed."""
        seeds = [int(seed) for seed in self.options.seeds.split(",")]

        def wanted(run: Run, seed: int) -> bool:
            done = self.results.get(run.name, {})
            return str(seed) not in done if run.seeded else not done and seed == seeds[0]

        return [(run, seed) for seed in seeds for run in chosen if wanted(run, seed)]

    def measure(self, run: Run, seed: int) -> None:
        """Train, read the last evaluation, and keep it.

        Raises:
            RuntimeError: if the run fails.
        """
        output = self.options.work / "runs" / run.name / str(seed)
        output.parent.mkdir(parents=True, exist_ok=True)
        log = output.with_name(f"{seed}.log")
        began = time.perf_counter()
        with log.open("w") as stream:
            with self.lock:
                if self.stopped:
                    return
                process = subprocess.Popen(
                    command(run, seed, self.options, output), stdout=subprocess.PIPE, stderr=stream, text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                self.running.add(process)
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            stream.write(said)
        with self.lock:
            self.running.discard(process)
        if process.returncode:
            raise RuntimeError(f"{run.name}, seed {seed}: ended with status {process.returncode}, see {log}")
        if run.recipe.startswith("knn "):
            pairs = (line.split() for line in said.splitlines() if line.startswith("knn/"))
            metrics = {name.partition("/")[2]: float(value) for name, value in pairs}
        else:
            metrics = json.loads((output / "completed.json").read_text())["metrics"]
        seconds = round(time.perf_counter() - began, 1)
        processor = round(usage.ru_utime + usage.ru_stime, 1)
        self.keep(run, seed, {"seconds": seconds, "processor_seconds": processor, "metrics": metrics})

    def keep(self, run: Run, seed: int, entry: dict[str, Any]) -> None:
        """Add a result to the file, whole or not at all."""
        path = self.options.results
        with self.lock:
            self.results.setdefault(run.name, {})[str(seed)] = entry
            order = [known.name for known in runs()]
            ordered = {name: dict(sorted(self.results[name].items())) for name in order if name in self.results}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(ordered, indent=1) + "\n")
            partial.replace(path)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in entry["metrics"].items())
        print(f"{run.name}, seed {seed}: {entry['seconds']:.0f} s, {shown}", flush=True)

    def stop(self) -> None:
        """End what is running; it keeps a checkpoint and goes on from there."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.terminate()


def main() -> None:
    """Do what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--fashion", type=Path, default=Path("outputs/fashion"))
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/transfer"), help="rendered rooms and trained networks"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results" / "transfer.json")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs" / "transfer.md", help="page with the tables")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    parser.add_argument("--override", action="append", default=[], help="KEY=VALUE for every run")
    parser.add_argument("--list", action="store_true", help="show the runs and stop")
    options = parser.parse_args()
    chosen = [run for run in runs() if run.name.startswith(options.only)]
    if options.list:
        print("\n".join(run.name for run in chosen))
        return
    study = Study(options, json.loads(options.results.read_text()) if options.results.is_file() else {})
    missing = study.missing(chosen)
    if any(run.name.startswith("rooms/") for run, _ in missing):
        prepare(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failures = []
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for done in as_completed([pool.submit(study.measure, *one) for one in missing]):
                if done.exception() is not None:
                    failures.append(str(done.exception()))
                    print(failures[-1], file=sys.stderr, flush=True)
        finally:
            study.stop()
    print(tables(study.results))
    write_part(options.docs, "transfer.py", tables(study.results))
    if failures:
        sys.exit(f"{len(failures)} runs failed; the same command tries them again")


if __name__ == "__main__":
    main()
