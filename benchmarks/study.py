"""What the scaling studies share: their arguments, resumable runs, the numbers these wrote, and where results are kept.

A study is a grid of runs of `fourm`, each of which goes on where it stopped and is skipped when it is complete, so that
the same command goes on too. Its numbers and curves are written into its output folder; with `--docs` also into
benchmarks/results, docs/pictures and its page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm.files import publish
from fourm.report.runs import Run, load_runs

CHECKOUT = Path(__file__).resolve().parents[1]


def parser(description: str | None, source: str, explained: str, *, steps: int, batch: int) -> argparse.ArgumentParser:
    """The arguments of all studies.

    Args:
        description: the docstring of the script.
        source: name of the first argument, the folder that recipes know as `variables.root`.
        explained: what that folder is.
        steps, batch: of each pretraining run, unless others are asked for.
    """
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source", metavar=source, help=explained)
    arguments.add_argument("output", help="folder for the runs")
    arguments.add_argument("--steps", type=int, default=steps)
    arguments.add_argument("--batch", type=int, default=batch)
    arguments.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="of all pretraining")
    arguments.add_argument("--docs", action="store_true", help="write benchmarks/results and the page in docs too")
    return arguments


def fourm(*words: object) -> None:
    """Run a command of the toolkit."""
    subprocess.run([sys.executable, "-m", "fourm", *map(str, words)], check=True)


def pretrain(
    options: argparse.Namespace, recipe: str, place: str, model: Mapping[str, Any], *overrides: object
) -> Path:
    """Train one model of the grid, or what is left of it.

    Args:
        options: of `parser`.
        recipe: of `fourm pretrain`.
        place: of the run in the output folder.
        model: keys of the recipe's `model`, which make its size.
        overrides: other keys of the recipe.

    Returns:
        Its folder.
    """
    out = Path(options.output) / place
    fourm(
        "pretrain", recipe, f"variables.root={options.source}", f"output={out}",
        *(f"model.{key}={value}" for key, value in model.items()),
        f"train.max_steps={options.steps}", f"train.batch_size={options.batch}", "train.tensorboard=false",
        *overrides, *options.override,
    )  # fmt: skip
    return out


def log_of(run: Path) -> Run:
    """What a run wrote about itself."""
    (found,) = load_runs([run])
    return found


def held_out(run: Path, key: str = "loss") -> tuple[list[float], list[float]]:
    """Tokens seen, and the number a run reached on held-out data, of every evaluation."""
    points = [(float(r["tokens"]), float(r[key])) for r in log_of(run).records if r.get("kind") == "eval"]
    return [tokens for tokens, _ in points], [value for _, value in points]


def trunk_parameters(run: Path) -> int:
    """Parameters of the blocks, which sizes are about; tables and heads grow with the width alone."""
    from fourm.models.folder import load_model

    model = load_model(run / "model")
    trunks = [trunk for trunk in (model.encoder, model.decoder) if trunk is not None]
    return sum(p.numel() for trunk in trunks for p in trunk.parameters())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def keep(name: str, results: Any, pictures: Mapping[str, str], place: Path) -> None:
    """Write what a study found into its output folder.

    Args:
        name: of the study.
        results: its numbers.
        pictures: name -> SVG.
        place: the folder.
    """
    publish(place / f"{name}.json", json.dumps(results, indent=1) + "\n")
    for picture, text in pictures.items():
        publish(place / f"{picture}.svg", text)


def keep_in_docs(name: str, results: Any, pictures: Mapping[str, str], checkout: Path) -> None:
    """The same into a checkout, as NAME.json of its results and NAME_PICTURE.svg of its pages' pictures."""
    publish(checkout / "benchmarks" / "results" / f"{name}.json", json.dumps(results, indent=1) + "\n")
    for picture, text in pictures.items():
        # A picture in a page of its own does not know the colour of the text around it: grey can be read on both.
        publish(checkout / "docs" / "pictures" / f"{name}_{picture}.svg", text.replace("currentColor", "#808080"))


def tell(
    name: str,
    options: argparse.Namespace,
    results: Any,
    texts: Sequence[str],
    page: str,
    drawn: Mapping[str, str],
    captions: Mapping[str, str],
) -> None:
    """Keep what a study found and print its table; with `--docs`, write it into a page too.

    Args:
        name: of the study and its script.
        options: of `parser`.
        results: its numbers.
        texts: its table, and what comes between table and pictures.
        page: of the documentation, which has a part for the script.
        drawn: name -> SVG.
        captions: name -> what the picture shows.
    """
    keep(name, results, drawn, Path(options.output))
    print(texts[0])
    if options.docs:
        keep_in_docs(name, results, drawn, CHECKOUT)
        links = "\n\n".join(f"![{what}](pictures/{name}_{picture}.svg)" for picture, what in captions.items())
        write_part(CHECKOUT / "docs" / page, f"{name}.py", "\n\n".join([*texts, links]))


def write_part(page: Path, script: str, text: str) -> None:
    """Replace the part of a page that a script writes, between two comments.

    Raises:
        ValueError: if the page has none.
    """
    begin, end = f"<!-- results of benchmarks/{script} -->", "<!-- end of results -->"
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"{page} has no lines '{begin}' and '{end}' to put the results between")
    publish(page, f"{before}{begin}\n\n{text}\n\n{end}{after}")
