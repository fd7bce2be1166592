"""How long the command line takes to answer, beside a Python that does nothing.

    python benchmarks/startup.py [--repeats 10]

Prints the median seconds of each command and its ratio to `python -c pass`; the aim is below 0.5 s on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import fourm": ["-c", "import fourm"],
    "fourm --help": ["-m", "fourm", "--help"],
    "fourm pretrain --help": ["-m", "fourm", "pretrain", "--help"],
    "config error": ["-m", "fourm", "pretrain", "{recipe}"],
}


def seconds(arguments: list[str], repeats: int) -> float:
    """Median time of a fresh interpreter; one run before warms the file cache."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print all commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "wrong.yaml"
        recipe.write_text("modle: {}\n")
        base = None
        for name, arguments in COMMANDS.items():
            taken = seconds([argument.format(recipe=recipe) for argument in arguments], repeats)
            base = base or taken
            print(f"{name:<24} {taken:6.3f} s   {taken / base:5.1f} x")


if __name__ == "__main__":
    main()
