"""Ways to spoil the tiny world: each takes its root folder and damages one thing in it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fourm.data.index import index_path
from fourm.data.shards import ShardWriter, shard_path
from fourm.data.source import open_source


def rewrite(
    root: Path, source: str, change: Callable[[int, str, bytes], tuple[str, bytes]], split: str = "train"
) -> None:
    """Write the first shard of a source again, with every (number, key, content) changed."""
    folder = root / "rooms" / split
    opened = open_source(str(folder), [source])
    samples = [change(n, opened.key(n), opened.read(n)[source]) for n in range(opened.shard_sizes[0])]
    extension = {"rgb": "png", "tok_depth": "npy", "caption": "json", "depth": "png"}[source]
    with ShardWriter(folder, 0, {source: extension}) as writer:
        for key, content in samples:
            writer.write(key, {source: content})


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def corrupt_image(root: Path) -> None:
    rewrite(root, "rgb", lambda n, key, content: (key, content[:20] if n == 2 else content))


def corrupt_depth(root: Path) -> None:
    rewrite(root, "depth", lambda n, key, content: (key, b"no image" if n == 2 else content))


def truncated_tar(root: Path) -> None:
    tar = shard_path(root / "rooms" / "train", "rgb", 1)
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def truncated_depth(root: Path) -> None:
    tar = shard_path(root / "rooms" / "train", "depth", 1)
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def other_keys(root: Path) -> None:
    rewrite(root, "caption", lambda n, key, content: ("900000" if n == 3 else key, content))


def missing_shard(root: Path) -> None:
    for file in (root / "rooms" / "train" / "caption").glob("shard-00001*"):
        file.unlink()


def missing_source(root: Path) -> None:
    shutil.rmtree(root / "rooms" / "train" / "rgb")


def missing_data(root: Path) -> None:
    shutil.rmtree(root / "rooms" / "train")


def no_shards(root: Path) -> None:
    for source in ("rgb", "tok_depth", "caption"):
        for file in (root / "rooms" / "train" / source).glob("shard-*"):
            file.unlink()


def empty_shards(root: Path) -> None:
    no_shards(root)
    for shard in range(2):
        with ShardWriter(root / "rooms" / "train", shard, {"rgb": "png", "tok_depth": "npy", "caption": "json"}):
            pass


def interrupted_rooms(root: Path) -> None:
    for source in ("rgb", "tok_depth", "caption", "depth"):
        for file in (root / "rooms" / "train" / source).glob("shard-00001*"):
            file.unlink()


def stale_index(root: Path) -> None:
    """Two captions change places behind the back of the index, which was copied last and is as old as they are."""
    tar = shard_path(root / "rooms" / "train", "caption", 0)
    index = index_path(tar).read_bytes()

    def swap(n: int, key: str, content: bytes) -> tuple[str, bytes]:
        return {0: "000001", 1: "000000"}.get(n, key), content

    rewrite(root, "caption", swap)
    index_path(tar).write_bytes(index)


def id_too_large(root: Path) -> None:
    rewrite(
        root, "tok_depth", lambda n, key, content: (key, npy(np.full((1, 64), 512, np.int16)) if n == 1 else content)
    )


def tokens_of_another_tokenizer(root: Path) -> None:
    path = root / "rooms" / "train" / "tok_depth" / "source.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_hash": "0" * 64}))


def validation_tokens_of_another_tokenizer(root: Path) -> None:
    path = root / "rooms" / "test" / "tok_depth" / "source.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_hash": "0" * 64}))


def no_text_tokenizer(root: Path) -> None:
    (root / "tokenizers" / "text.json").unlink()


def damaged_tokenizer(root: Path) -> None:
    weights = root / "tokenizers" / "depth" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def no_tokenizers_named(root: Path) -> None:
    recipe = (root / "tiny.yaml").read_text()
    start, end = recipe.index("tokenizers:"), recipe.index("data:")
    (root / "tiny.yaml").write_text(recipe[:start] + recipe[end:])


def no_training_data_named(root: Path) -> None:
    recipe = (root / "tiny.yaml").read_text()
    start, end = recipe.index("  train: {datasets"), recipe.index("  val:")
    (root / "tiny.yaml").write_text(recipe[:start] + "  train: {datasets: {}}\n" + recipe[end:])


def damaged_caption(root: Path) -> None:
    rewrite(root, "caption", lambda n, key, content: (key, b'{"text": 1}' if n == 1 else content))


def nothing(root: Path) -> None:
    pass
