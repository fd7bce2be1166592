"""Tiny aligned data: eight samples of 16 x 16 pixels in two shards."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data.shards import ShardWriter
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet

SIZE = 16
EXTENSIONS = {
    "rgb": "png", "depth": "png", "normal": "png", "semseg": "png", "tok_rgb": "npy", "caption": "json",
    "det": "json", "crop_settings": "npy",
}  # fmt: skip


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make_sample(n: int, size: int = SIZE, num_crops: int = 2) -> dict[str, bytes]:
    """One sample whose pixels, tokens and words say its number n; crop 1 is the mirrored image."""
    rng = np.random.default_rng(n)
    rgb = rng.integers(0, 256, (size, size, 3), np.uint8)
    rgb[0, 0] = n
    box = {"boxes": [0.0, 0.25, 0.25, 0.75], "class_name": "bed", "score": 1.0}
    crops = np.array([[0, 0, size, size, row % 2] for row in range(num_crops)], np.int32)
    tokens = np.stack([np.full(4, n + 100 * row) for row in range(num_crops)]).astype(np.int16)
    return {
        "rgb": png(rgb),
        "depth": png(rng.integers(1, 65536, (size, size)).astype(np.uint16)),
        "normal": png(rng.integers(0, 256, (size, size, 3), np.uint8)),
        "semseg": png(rng.integers(0, 4, (size, size), np.uint8)),
        "tok_rgb": npy(tokens),
        "caption": json.dumps([f"sample {n} left", f"number {n} left"]).encode(),
        "det": json.dumps({"instances": [box]}).encode(),
        "crop_settings": npy(crops),
    }


def write_shards(root: Path, per_shard: list[int], sources: list[str] | None = None, **options: Any) -> Path:
    """Shards with the given numbers of samples; keys count through."""
    sources = sources or list(EXTENSIONS)
    n = 0
    for shard, count in enumerate(per_shard):
        with ShardWriter(root, shard, {source: EXTENSIONS[source] for source in sources}) as writer:
            for _ in range(count):
                sample = make_sample(n, **options)
                writer.write(f"{n:06d}", {source: sample[source] for source in sources})
                n += 1
    return root


def write_folders(root: Path, count: int, sources: list[str]) -> Path:
    """The simple folder form with two classes."""
    for n in range(count):
        sample = make_sample(n)
        for source in sources:
            file = root / source / f"class{n % 2}" / f"{n:03d}.{EXTENSIONS[source]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(sample[source])
    return root


def image_modality(name: str, decode: str, normalization: Any, channels: int = 3, **facts: Any) -> Modality:
    grid = facts.pop("grid", Grid(2, 2, 8))
    return Modality(
        name, grid, Continuous(channels * grid.patch_size**2), source=facts.pop("source", name), decode=decode,
        direction="input", channels=channels, normalization=normalization, **facts,
    )  # fmt: skip


MODALITIES = ModalitySet(
    [
        image_modality("rgb", "image", "half", value_range=(0.0, 1.0)),
        image_modality("depth", "depth16", "log", 1, value_range=(0.25, 16.0)),
        image_modality("normal", "normal", "half", value_range=(-1.0, 1.0)),
        Modality("semseg", Grid(16, 16, 1), Discrete(4), source="semseg", decode="labels", direction="input"),
        Modality("tok_rgb", Grid(2, 2, 8), Discrete(512), source="tok_rgb", decode="tokens"),
        Modality("caption", Sequence(16), Discrete(100), source="caption", decode="text", tokenizer="text"),
        Modality("det", Sequence(16), Discrete(100), source="det", decode="boxes", tokenizer="text"),
    ]
)


class Data:
    """The helpers of this file, handed to tests as one fixture."""

    modalities = MODALITIES
    size = SIZE
    png = staticmethod(png)
    npy = staticmethod(npy)
    make_sample = staticmethod(make_sample)
    write_shards = staticmethod(write_shards)
    write_folders = staticmethod(write_folders)
    image_modality = staticmethod(image_modality)


@pytest.fixture
def data() -> type[Data]:
    return Data


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of 5 and 3 samples."""
    return write_shards(tmp_path / "set", [5, 3])


@pytest.fixture
def reports() -> Callable[..., Any]:
    """Check that a call ends with a message that contains all given words."""

    def check(kind: type[Exception], call: Callable[[], Any], *words: str) -> None:
        with pytest.raises(kind) as caught:
            call()
        for word in words:
            assert word in str(caught.value)

    return check
