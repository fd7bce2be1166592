"""A small data set with every kind of file, whose parts can be spoilt one at a time."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm.data.encode import npy, png
from fourm.data.shards import FACTS_FILE, NUM_SHARDS, ShardWriter, write_source_facts
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, to_dict

WIDTH, HEIGHT = 48, 32

_TEXT = Sequence(16)
MODALITIES = {
    "rgb": Modality("rgb", Grid(2, 3, 16), Continuous(768), "rgb", "image", channels=3, direction="input"),
    "canny": Modality("canny", Grid(2, 3, 16), Continuous(256), "canny", "gray", channels=1, direction="input"),
    "depth": Modality(
        "depth", Grid(2, 3, 16), Continuous(256), "depth", "depth16", channels=1, direction="input",
        value_range=(0.25, 16.0), normalization="log",
    ),
    "normal": Modality(
        "normal", Grid(2, 3, 16), Continuous(768), "normal", "normal", channels=3, direction="input",
        value_range=(-1.0, 1.0),
    ),
    "semseg": Modality("semseg", Grid(32, 48), Discrete(2), "semseg", "labels", classes=("sky", "tree")),
    "det": Modality("det", _TEXT, Discrete(100), "det", "boxes", tokenizer="text", classes=("sky", "tree")),
    "caption": Modality("caption", _TEXT, Discrete(100), "caption", "text", tokenizer="text"),
    "metadata": Modality("metadata", _TEXT, Discrete(100), "metadata", "metadata", tokenizer="text"),
    "color_palette": Modality("color_palette", _TEXT, Discrete(100), "color_palette", "palette", tokenizer="text"),
    "dino": Modality("dino", Grid(2, 3), Continuous(8), "dino", "features", channels=8, direction="input"),
    "t5": Modality("t5", _TEXT, Continuous(6), "t5", "vectors", direction="input"),
    "poses": Modality("poses", _TEXT, Discrete(100), "poses", "poses", tokenizer="text"),
    "sam": Modality("sam", _TEXT, Discrete(100), "sam", "sam", tokenizer="text"),
}  # fmt: skip
EXTENSIONS = dict.fromkeys([*MODALITIES, "crop_settings", "tok_rgb"], "json") | {
    "rgb": "jpg", "canny": "png", "depth": "png", "normal": "png", "semseg": "png", "dino": "npy", "t5": "npz",
    "crop_settings": "npy", "tok_rgb": "npy",
}  # fmt: skip

Change = Callable[[str, str, bytes], tuple[str, bytes]]
"""Source, key and content -> key and content."""


def sample(n: int) -> dict[str, bytes]:
    """A photograph that is red on the left and blue on the right, with a bright square at the top, and its labels."""
    rng = np.random.default_rng(n)
    left = np.arange(WIDTH) < WIDTH // 2
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:, left, 0] = rgb[:, ~left, 2] = 200
    rgb[2:8, 4:10] = 255
    tilt = np.linspace(-0.6, 0.6, WIDTH)
    vectors = np.stack([tilt, np.zeros(WIDTH), np.sqrt(1 - tilt**2)], -1)[None].repeat(HEIGHT, 0)
    rows = np.linspace(0.0, 1.0, HEIGHT)[:, None].repeat(WIDTH, 1)
    outline = [[20, 30], [100, 30], [60, 120]]
    crop = {"points": [outline], "bbox": [[30, 20, 120, 100]], "token_ids": [list(range(16))]}
    embedding = io.BytesIO()
    np.savez(embedding, emb=rng.normal(size=(4, 6)).astype(np.float32))
    return {
        "rgb": jpeg(rgb),
        "canny": png(np.where(np.abs(np.diff(left, append=False))[None].repeat(HEIGHT, 0), 255, 0).astype(np.uint8)),
        "depth": png((65535 * (1 + 7 * rows) / 16).astype(np.uint16)),
        "normal": png(np.rint((vectors + 1) / 2 * 255).astype(np.uint8)),
        "semseg": png(np.where(rows < 0.5, 0, 1).astype(np.uint8)),
        "det": dump({"instances": [{"boxes": [0.55, 0.5, 0.9, 0.95], "class_name": "tree", "score": 0.9}]}),
        "caption": dump([f"photograph {n}", "red and blue"]),
        "metadata": dump({"original_width": WIDTH, "brightness": 99.5, "n_humans": None}),
        "color_palette": dump({"1": [[200, 0, 0]], "2": [[200, 0, 0], [0, 0, 200]]}),
        "dino": npy(rng.normal(size=(2, 8, 2, 3)).astype(np.float32)),
        "t5": embedding.getvalue(),
        "poses": dump({"bbox_xyxy": [[4, 2, 20, 30]], "keypoints": [[[12, 16, 1.0]] * 17]}),
        "sam": dump([crop, crop]),
        "crop_settings": npy(np.array([[0, 8, 32, 32, 0], [0, 16, 32, 32, 1]], np.int32)),
        "tok_rgb": npy(np.arange(12, dtype=np.int16).reshape(2, 6) + n),
    }


def write(root: Path, change: Change = lambda source, key, content: (key, content), *, facts: bool = True) -> Path:
    """Five samples in two shards, every file changed on its way."""
    shutil.copytree(_original().name, root, dirs_exist_ok=True)
    for source in EXTENSIONS:
        if not facts:
            (root / source / FACTS_FILE).unlink()
        for shard, samples in enumerate(_samples()):
            before = {key: files[source] for key, files in samples.items()}
            after = [change(source, key, content) for key, content in before.items()]
            if after != list(before.items()):
                with ShardWriter(root, shard, {source: EXTENSIONS[source]}) as writer:
                    for key, content in after:
                        writer.write(key, {source: content})
    return root


@cache
def _original() -> tempfile.TemporaryDirectory[str]:
    """The data set as it is without changes, written once."""
    folder = tempfile.TemporaryDirectory()
    for shard, samples in enumerate(_samples()):
        with ShardWriter(Path(folder.name), shard, EXTENSIONS) as writer:
            for key, files in samples.items():
                writer.write(key, files)
    for source, known in FACTS.items():
        write_source_facts(Path(folder.name), source, known)
    return folder


@cache
def _samples() -> list[dict[str, dict[str, bytes]]]:
    """Shard -> key -> source -> content."""
    return [{f"{n:06d}": sample(n) for n in range(3)}, {f"{n:06d}": sample(n) for n in range(3, 5)}]


def jpeg(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def spoil(source: str, content: bytes, key: str = "000003") -> Change:
    """Another content for one file."""
    return lambda s, k, before: (k, content if (s, k) == (source, key) else before)


def _facts() -> Mapping[str, dict[str, Any]]:
    named = {name: {"modality": {"name": name, **to_dict(m)}} for name, m in MODALITIES.items()}
    tokens = {"tokenizer_hash": "0" * 64, "vocab_size": 512, "grid": [2, 3], "modality": "tok_rgb"}
    return {
        source: {NUM_SHARDS: 2, **known} for source, known in {**named, "crop_settings": {}, "tok_rgb": tokens}.items()
    }


FACTS = _facts()
