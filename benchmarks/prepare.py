"""Photographs per second of one core: labelled (Canny, palette, metadata) and written, and only decoded and resized.

    python benchmarks/prepare.py FOLDER [FOLDER ...] [--size 256] [--repeats 3]

Only files that are photographs count. `bare` is Pillow alone: open, convert to RGB, resize to the same size.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from fourm.config import build
from fourm.errors import DataError
from fourm.prepare.photos.files import LocalFiles
from fourm.prepare.photos.inputs import FolderInputs
from fourm.prepare.photos.load import load
from fourm.prepare.photos.open import open_inputs
from fourm.prepare.photos.recipe import ImageConfig, PhotosRecipe
from fourm.prepare.photos.shard import ShardMaker, ShardTask

LABELS = {"canny": {}, "color_palette": {}, "metadata": {}}


def photographs(folders: list[Path], config: ImageConfig) -> dict[str, bytes]:
    """All files below the folders that can be read, in memory: the disk is not what is measured."""
    found = {}
    for number, folder in enumerate(folders):
        inputs = FolderInputs(LocalFiles(folder), [], 10**6)
        for item in (item for piece in inputs.pieces() for item in inputs.read(piece) if not item.reason):
            try:
                load(item.data, item.file, config)
            except DataError:
                continue
            found[f"{number}/{item.file}"] = item.data
    return found


def bare(files: dict[str, bytes], size: int) -> None:
    """Decode and resize."""
    for data in files.values():
        with Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB")
            scale = min(1.0, size / min(picture.size))
            target = [max(1, round(side * scale)) for side in picture.size]
            picture.resize((target[0], target[1]), Image.Resampling.BICUBIC)


def seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    files = photographs(options.folders, ImageConfig(size=options.size))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in")
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)

        def labelled() -> None:
            out = Path(folder, "out")
            shutil.rmtree(out, ignore_errors=True)
            given = {"input": str(root), "output": str(out), "labels": LABELS, "image": {"size": options.size}}
            recipe = build(PhotosRecipe, given)
            inputs = open_inputs(recipe)
            make = ShardMaker(recipe, inputs)
            for shard, piece in enumerate(inputs.pieces()):
                make(ShardTask(shard, piece), lambda: None)

        labelled()  # once to import and to warm the caches
        rows = [(seconds(lambda: bare(files, options.size)), seconds(labelled)) for _ in range(options.repeats)]
    alone, whole = (min(times) for times in zip(*rows))
    print(f"{len(files)} photographs, {sum(map(len, files.values())) / 1e6:.0f} MB")
    print(f"bare      {len(files) / alone:8.1f} per second  {1e3 * alone / len(files):6.2f} ms each")
    print(f"labelled  {len(files) / whole:8.1f} per second  {1e3 * whole / len(files):6.2f} ms each")
    print(f"ratio     {alone / whole:8.2f}")


if __name__ == "__main__":
    main()
