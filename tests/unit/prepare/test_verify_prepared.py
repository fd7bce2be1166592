"""What `fourm prepare photos` stored, `fourm prepare verify` finds good, whatever odd files of users' went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm.config import build
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.recipe import PhotosRecipe
from fourm.prepare.verify import verify
from tests.photographs import photograph

LABELS: dict[str, dict[str, Any]] = {
    "thermal": {
        "kind": "file",
        "file": "heat/{stem}.png",
        "modality": {"base": "depth@64", "value_range": [0, 120], "normalization": "half"},
    },
    "normal": {"kind": "file", "file": "normal/{stem}.png", "modality": "normal@64"},
    "mask": {"kind": "file", "file": "mask/{stem}.png", "modality": "canny@64"},
    "other": {"kind": "file", "file": "other/{stem}.png", "modality": {"base": "rgb@64"}},
    "det": {"kind": "file", "file": "det/{stem}.json", "modality": "det"},
    "facts": {"kind": "file", "file": "facts/{stem}.json", "modality": "metadata"},
    "caption": {"kind": "text_file"},
    "comment": {"kind": "file", "file": "{path}.txt", "modality": "caption"},
    "metadata": {"kind": "metadata"},
    "color_palette": {"kind": "color_palette"},
}


def write_input(root: Path, num: int, rng: np.random.Generator) -> Path:
    """Photographs of 120 x 90 pixels with labels that are right, but only just."""
    for folder in ("heat", "normal", "mask", "other", "det", "facts"):
        (root / folder).mkdir(parents=True)
    for n in range(num):
        # The last one is black, so that it has no entropy, no contrast and one colour.
        picture = photograph(n) if n < num - 1 else Image.new("RGB", (120, 90))
        picture.save(root / f"p{n}.png")
        Image.fromarray(np.full((90, 120), 20_000 + n, np.uint16)).save(root / f"heat/p{n}.png")
        vectors = rng.normal(size=(90, 120, 3))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        Image.fromarray(np.rint((vectors + 1) * 127.5).astype(np.uint8)).save(root / f"normal/p{n}.png")
        picture.save(root / f"mask/p{n}.png")  # in colours, for a map of grey values
        picture.convert("L").save(root / f"other/p{n}.png")  # and grey for a picture in colours
        box = {"boxes": [-0.004, 0.2, 1.01, 0.9], "class_name": "cat", "score": 0.9}
        (root / f"det/p{n}.json").write_text(json.dumps({"instances": [box]}))
        (root / f"facts/p{n}.json").write_text(json.dumps({"n_humans": n, "aesthetic_score": 6.5, "contrast": 127.5}))
        (root / f"p{n}.txt").write_bytes(b"\x1b[1mA photograph\x00 of \x07something\n")
    return root


def test_what_was_prepared_is_good_and_the_rest_rejected(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = write_input(tmp_path / "in", 5, rng)
    (photos / "det/p1.json").write_text(
        json.dumps({"instances": [{"boxes": [0.9, 0.2, 0.1, 0.4], "class_name": "cat", "score": 1}]})
    )
    (photos / "facts/p2.json").write_text(json.dumps({"brightness": -5e9}))
    recipe = {
        "input": str(photos), "output": str(tmp_path / "out"), "labels": LABELS, "shard_size": 3, "image": {"size": 40},
    }  # fmt: skip

    rejected = prepare_photos(build(PhotosRecipe, recipe), workers=1, progress=False)

    reasons = {entry.file: entry.reason for entry in rejected if entry.file.startswith("p")}
    assert set(reasons) == {"p1.png", "p2.png"}
    assert "box [0.9, 0.2, 0.1, 0.4] of 'cat'" in reasons["p1.png"]
    assert "brightness is -5000000000.0" in reasons["p2.png"]
    verdict = verify(tmp_path / "out", progress=False)
    assert not verdict.problems
    assert {source.counts.samples for source in verdict.sources} == {3}
