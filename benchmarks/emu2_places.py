"""Whether a model that was trained as Emu2-Gen paints clothes in the places that it is told.

    python benchmarks/emu2_places.py outputs/emu/emu2_gen_tune outputs/emu/documents/test/boxes.jsonl

Of held-out captions with a box behind their piece: intersection over union of the asked box and of that around what is
painted; the same with boxes of other pieces of its class, which is what a model reaches that listens to the caption
alone; and of what the decoder makes of the real photograph's own vectors, which is what can be had.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fourm.data.interleaved_files import read_image
from fourm.generate.interleaved_prompts import Interleaved
from fourm.prepare.documents.pictures import Box, box_of, png
from fourm.recipe.bundle import load_bundle
from fourm.report.grid import grid

BRIGHT = 64
"""Grey values from here on are the piece; decoders leave some haze on black."""
ROWS = ["place", "photograph", "told both", "caption alone"]
Document = tuple[str, str, Box, str]
"""Caption, what it names, its box, and the name of its photograph."""


def documents(path: Path, count: int) -> list[Document]:
    """The first documents of a file of `boxes`."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        first, place, *rest = json.loads(line)["parts"]
        outline = Image.open(io.BytesIO(read_image(path.parent, place["image"]))).convert("L")
        caption = first["text"] + "".join(part.get("text", "") for part in rest)
        box = box_of(outline)
        assert box is not None
        found.append((caption, first["text"].rsplit(" ", 1)[-1], box, rest[-1]["image"]))
    return found


def overlap(one: Box | None, other: Box | None) -> float:
    """Intersection over union of two boxes; 0 if one is missing."""
    if one is None or other is None:
        return 0.0
    width, height = (min(one[n + 2], other[n + 2]) - max(one[n], other[n]) for n in (0, 1))
    shared = max(width, 0.0) * max(height, 0.0)
    total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / total if total else 0.0


def scores(kinds: Sequence[str], asked: Sequence[Box], painted: Sequence[Box | None]) -> dict[str, float]:
    """Mean overlap of asked and painted boxes, and that with the asked boxes of the others of a class."""
    own = [overlap(a, p) for a, p in zip(asked, painted)]
    others = [
        overlap(asked[m], painted[n])
        for n, kind in enumerate(kinds)
        for m, other in enumerate(kinds)
        if m != n and other == kind
    ]
    return {"asked": float(np.mean(own)), "others of the class": float(np.mean(others)) if others else float("nan")}


def boxes_of(images: torch.Tensor) -> list[Box | None]:
    """Around what is bright in (N, 1, H, W) pictures in [0, 1]."""
    grey = (images[:, 0] * 255).round().byte().numpy()
    return [box_of(Image.fromarray(np.where(picture >= BRIGHT, 255, 0).astype(np.uint8))) for picture in grey]


def main() -> None:
    """Print the figures, and draw asked places beside what is painted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path, help="boxes.jsonl of `fourm prepare documents`")
    parser.add_argument("--num", type=int, default=100, help="documents, the first ones")
    parser.add_argument("--out", type=Path, help="a png of the first 20: place, photograph, painted")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    bundle: Any = load_bundle(given.model)
    bundle.model.eval()
    model = Interleaved(bundle)
    found = documents(given.data, given.num)
    kinds, asked = [kind for _, kind, _, _ in found], [box for _, _, box, _ in found]
    seeds = torch.arange(len(found))
    places = [model.box_image(box) for box in asked]
    prompts = [model.composing([(kind, p, None)], text) for (text, kind, _, _), p in zip(found, places)]
    real = torch.stack([pixels(given.data.parent, name) for *_, name in found])
    painted = model.draw(prompts, seeds)
    again = model.paint(model.encode(list(model.images(real))), seeds)
    plain = model.draw([model.drawing(text) for text, *_ in found], seeds)
    figures = {
        "told the place": scores(kinds, asked, boxes_of(painted)),
        "told the caption alone": scores(kinds, asked, boxes_of(plain)),
        "of the photograph's own vectors": scores(kinds, asked, boxes_of(again)),
    }
    if given.out is not None:
        rows = [[picture(one) for one in row] for row in zip(real[:20], painted[:20], plain[:20])]
        outlines = [Image.fromarray((place[0].numpy() > 0).astype(np.uint8) * 255) for place in places[:20]]
        cells = [[outline, *row] for outline, row in zip(outlines, rows)]
        given.out.write_bytes(png(grid([list(column) for column in zip(*cells)], rows=ROWS, cell_size=84)))
    if given.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name:34}" + "".join(f"{key}: {value:.3f}  " for key, value in row.items()))


def pixels(folder: Path, name: str) -> torch.Tensor:
    """(1, H, W) in [0, 1], a photograph of the documents."""
    grey = Image.open(io.BytesIO(read_image(folder, name))).convert("L")
    return torch.from_numpy(np.asarray(grey).copy())[None].float() / 255


def picture(values: torch.Tensor) -> Image.Image:
    """A picture of (1, H, W) in [0, 1]."""
    return Image.fromarray((values[0].clamp(0, 1) * 255).round().byte().numpy())


if __name__ == "__main__":
    main()
