"""Shards of made-up content in the published layout, for any modalities: to measure, and to try a recipe without data.

Every sample belongs to one of a few kinds, and its kind shows in all modalities: there is something to learn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm import catalog
from fourm.data.shards import CROPS, ShardWriter
from fourm.errors import ConfigError, did_you_mean
from fourm.layouts import Continuous
from fourm.modality import Modality, ModalitySet
from fourm.rng import generator

NUM_KINDS = 8
NUM_CROPS = 10
IMAGE_SIZE = 256
CLASSES = ("bench", "bird", "boat", "car", "cat", "chair", "clock", "dog")
_COLORS = ("red", "green", "blue", "yellow", "white", "black", "brown", "orange")
_PLACES = ("a street", "a garden", "the sea", "a kitchen", "a meadow", "a station", "an office", "a beach")
_NOISE = 0.1  # share of tokens that say nothing

Make = Callable[[Modality, int, np.random.Generator], Any]


def write_made_up(
    root: Path, modalities: ModalitySet, num_samples: int, shard_size: int = 1000, *, crops: bool = True, seed: int = 0
) -> None:
    """Write samples that have every modality.

    Args:
        root: folder of the data set; its sources become `<source>/shard-00000.tar`.
        modalities: what they hold; two of one source share its files.
        num_samples: how many.
        shard_size: samples per shard.
        crops: store crops too, with a row of tokens for each.
        seed: of the content; the same gives the same bytes.

    Raises:
        ConfigError: for a form of files that is not made up here.
        DataError: if the shards cannot be written.
    """
    sources = {m.source: m for m in modalities.values()}
    makers = {source: _maker(m) for source, m in sources.items()}
    extensions = {source: extension for source, (extension, _) in makers.items()} | ({CROPS: "npy"} if crops else {})
    for shard, start in enumerate(range(0, num_samples, shard_size)):
        with ShardWriter(root, shard, extensions) as writer:
            for n in range(start, min(start + shard_size, num_samples)):
                rng = generator(seed, "made up", n)
                kind = int(rng.integers(NUM_KINDS))
                files = {s: _bytes(make(sources[s], kind, rng), extensions[s]) for s, (_, make) in makers.items()}
                if crops:
                    files[CROPS] = _bytes(_crops(rng), "npy")
                writer.write(f"{n:09d}", files)


def captions(num_samples: int, seed: int = 0) -> Iterable[str]:
    """Captions like those of made-up samples, to train a text tokenizer on."""
    for n in range(num_samples):
        rng = generator(seed, "made-up words", n)
        yield _caption(catalog.get("caption"), int(rng.integers(NUM_KINDS)), rng)[0]


def _maker(modality: Modality) -> tuple[str, Make]:
    """Extension of a modality's files, and what makes their content."""
    if modality.decode not in _MAKERS:
        known = did_you_mean(modality.decode, _MAKERS)
        raise ConfigError(f"modality '{modality.name}': '{modality.decode}' is not made up.{known}")
    return _MAKERS[modality.decode]


def _bytes(value: Any, extension: str) -> bytes:
    if extension == "json":
        return json.dumps(value).encode()
    buffer = io.BytesIO()
    if extension == "npy":
        np.save(buffer, value)
    elif extension == "npz":
        np.savez(buffer, **value)
    else:
        Image.fromarray(value).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _crops(rng: np.random.Generator) -> np.ndarray:
    """(crops, 5) the whole image, then random squares of it."""
    rows = [(0, 0, IMAGE_SIZE, IMAGE_SIZE, 0)]
    for _ in range(NUM_CROPS - 1):
        side = int(rng.integers(IMAGE_SIZE // 2, IMAGE_SIZE + 1))
        top, left = rng.integers(0, IMAGE_SIZE - side + 1, 2)
        rows.append((int(top), int(left), side, side, int(rng.integers(2))))
    return np.array(rows, np.int32)


def _image(modality: Modality, kind: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth picture in the colours of its kind, about as hard to decode as a photograph."""
    coarse = generator(0, "picture", kind).integers(40, 216, (8, 8, 3)) + rng.integers(-40, 40, (8, 8, 3))
    smooth = Image.fromarray(coarse.astype(np.uint8)).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (IMAGE_SIZE, IMAGE_SIZE, 1))
    return np.clip(np.asarray(smooth, np.int16) + noise, 0, 255).astype(np.uint8)


def _tokens(modality: Modality, kind: int, rng: np.random.Generator) -> np.ndarray:
    """(crops, tokens) one pattern per kind, a row for each crop."""
    shape = (NUM_CROPS, modality.num_tokens)
    pattern = generator(0, modality.name, kind).integers(0, modality.vocab_size, modality.num_tokens)
    noise = rng.integers(0, modality.vocab_size, shape)
    return np.where(rng.random(shape) < _NOISE, noise, pattern).astype(np.int16)


def _vectors(modality: Modality, kind: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    length = int(rng.integers(8, min(24, modality.num_tokens) + 1))
    dim = modality.content.dim if isinstance(modality.content, Continuous) else 0
    mean = generator(0, modality.name, kind).standard_normal((1, dim))
    values = (mean + 0.1 * rng.standard_normal((length, dim))).astype(np.float16)
    return {"emb": values, "mask_valid": np.ones(length, bool)}


def _caption(modality: Modality, kind: int, rng: np.random.Generator) -> list[str]:
    color = _COLORS[int(rng.integers(len(_COLORS)))]
    place = _PLACES[kind]
    return [
        f"a photo of a {color} {CLASSES[kind]} in front of {place}, seen from the side on a clear day",
        f"a {CLASSES[kind]} at {place}, with a {color} sign behind it and some people further away",
    ]


def _boxes(modality: Modality, kind: int, rng: np.random.Generator) -> dict[str, Any]:
    instances = []
    for _ in range(int(rng.integers(1, 6))):
        left, top = (float(v) for v in rng.uniform(0, 0.6, 2))
        width, height = (float(v) for v in rng.uniform(0.2, 0.4, 2))
        name = CLASSES[kind] if rng.random() > _NOISE else CLASSES[int(rng.integers(len(CLASSES)))]
        instances.append({"boxes": [left, top, left + width, top + height], "class_name": name, "score": 0.9})
    return {"instances": instances}


def _metadata(modality: Modality, kind: int, rng: np.random.Generator) -> dict[str, float]:
    counts = {"n_humans": kind, "n_coco_instances": int(rng.integers(6)), "caption_n_words": int(rng.integers(8, 20))}
    measured = {"brightness": 255, "contrast": 127, "saturation": 255, "entropy": 10, "walkability": 1, "objectness": 1}
    return counts | {name: float(rng.uniform(0, most)) for name, most in measured.items()}


def _palette(modality: Modality, kind: int, rng: np.random.Generator) -> dict[str, Any]:
    base = generator(0, "palette", kind).integers(0, 250, (7, 3))
    return {str(size): (base[:size] + rng.integers(0, 6, (size, 3))).tolist() for size in range(1, 8)}


def _people(modality: Modality, kind: int, rng: np.random.Generator) -> Any:
    count = min(kind, 2)
    if count == 0:
        return []
    return {
        "bbox_xyxy": [[20.0 + 10 * i, 20.0, 180.0 + 10 * i, 240.0] for i in range(count)],
        "pred_smpl_params": {
            "global_orient": [np.eye(3).tolist()] * count,
            "betas": rng.normal(0, 0.5, (count, 10)).tolist(),
        },
        "pred_cam": [[0.9, 0.1, 5.0]] * count,
        "pose_tokenized": generator(0, "pose", kind).integers(0, 1024, (count, 8)).tolist(),
    }


def _instances(modality: Modality, kind: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of every crop, some rectangles."""
    per_crop = np.full(NUM_CROPS, 3)
    count = int(per_crop.sum())
    low = rng.integers(0, 100, (count, 2))
    high = low + rng.integers(60, 120, (count, 2))
    corners = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for (x0, y0), (x1, y1) in zip(low, high, strict=True)]
    codes = generator(0, "mask", kind).integers(0, 1024, 16)
    return {
        "points": np.array(corners).reshape(-1, 2),
        "num_points": np.full(count, 4),
        "bbox": np.stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]], 1),
        "token_ids": np.tile(codes, (count, 1)),
        "num_instances": per_crop,
    }


_MAKERS: dict[str, tuple[str, Make]] = {
    "image": ("jpg", _image),
    "tokens": ("npy", _tokens),
    "vectors": ("npz", _vectors),
    "text": ("json", _caption),
    "boxes": ("json", _boxes),
    "metadata": ("json", _metadata),
    "palette": ("json", _palette),
    "poses": ("json", _people),
    "sam": ("npz", _instances),
}
