"""The pictures of docs/lvm.md and docs/delvm.md: what a model of visual sentences answers behind three examples.

    python -m fourm prepare sentences rooms variables.split=test --pictures examples
    python benchmarks/lvm_answers.py outputs/quickstart/lvm examples docs/pictures/lvm_answers.png

Rooms 0 to 2 are the examples and the next ones the questions, in one seed and as they come.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fourm.generate.rows import RowSampling
from fourm.generate.visual import VisualPrompt
from fourm.recipe.bundle import load_bundle
from fourm.report.grid import Cell, grid

TASKS = {
    "depth": ("image", "depth"),
    "normals": ("image", "normal"),
    "labels": ("image", "semseg"),
    "boxes": ("image", "boxes"),
    "image": ("edges", "image"),
    "colours": ("image_gray", "image"),
    "gaps": ("image_masked", "image"),
}
SHOTS, QUESTIONS = 3, 2


def row(asked: VisualPrompt, folder: Path, views: tuple[str, str], sampling: RowSampling, seed: int) -> list[Cell]:
    """The last example, and of every question itself, its answer and the truth."""
    paths = [[folder / f"{n}_{view}.png" for view in views] for n in range(SHOTS + QUESTIONS)]
    pairs: list[tuple[Tensor, Tensor]] = [(asked.read(x), asked.read(y)) for x, y in paths[:SHOTS]]
    cells: list[Cell] = [Image.open(path) for path in paths[SHOTS - 1]]
    for number, (question, truth) in enumerate(paths[SHOTS:]):
        ids = asked.analogy(pairs, asked.read(question), torch.tensor([seed + number]), sampling)
        pixels = (asked.decode(ids)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        cells += [Image.open(question), Image.fromarray(pixels.numpy()), Image.open(truth)]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="of visual sentences of rooms")
    parser.add_argument("examples", type=Path, help="folder of `fourm prepare sentences --pictures`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asked = VisualPrompt(load_bundle(options.model))
    sampling = RowSampling(options.temperature, top_p=options.top_p)
    cells = [row(asked, options.examples, views, sampling, options.seed) for views in TASKS.values()]
    columns = ["third example", "its answer", *["question", "answered", "truth"] * QUESTIONS]
    sheet = grid(cells, columns=columns, rows=list(TASKS), cell_size=96)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
