"""Small data sets in COCO's form, made for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm.data.coco_config import CocoDataConfig

CATEGORIES = [{"id": 7, "name": "square"}, {"id": 3, "name": "disc"}]
"""In this order, so that labels follow ids and not places: disc is 1 and square 2."""


def write(
    folder: Path,
    annotations: Sequence[dict[str, Any]],
    *,
    sizes: Sequence[tuple[int, int]] = ((40, 60),),
    categories: Sequence[dict[str, Any]] = CATEGORIES,
    images: Sequence[np.ndarray] | None = None,
    **options: Any,
) -> CocoDataConfig:
    """A data set.

    Args:
        folder: where it is made.
        annotations: with image_id from 1; ids are given by their places.
        sizes: (height, width) of each image.
        categories: of the file.
        images: the pixels; grey by default.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for n, (height, width) in enumerate(sizes, 1):
        pixels = np.full((height, width, 3), 90, np.uint8) if images is None else images[n - 1]
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        entries.append({"id": n, "file_name": f"{n}.png", "width": width, "height": height})
    found = [{"id": 100 + n, "image_id": 1, "category_id": 7, "iscrowd": 0, **one} for n, one in enumerate(annotations)]
    content = {"images": entries, "annotations": found, "categories": list(categories)}
    (folder / "annotations.json").write_text(json.dumps(content))
    return CocoDataConfig(str(folder / "images"), str(folder / "annotations.json"), **options)


def rectangle(left: float, top: float, width: float, height: float, **more: Any) -> dict[str, Any]:
    """An annotation whose mask fills its box."""
    right, bottom = left + width, top + height
    outline = [left, top, right, top, right, bottom, left, bottom]
    return {"bbox": [left, top, width, height], "segmentation": [outline], "area": width * height, **more}


def runs(mask: np.ndarray) -> dict[str, Any]:
    """A mask as COCO's runs of pixels down the columns."""
    flat = np.asarray(mask, bool).flatten(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    lengths = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + lengths}
