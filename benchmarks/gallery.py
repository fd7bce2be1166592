"""The pictures of docs/gallery.md, made from held-out rooms by the quick start's model.

python benchmarks/gallery.py outputs/quickstart
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fourm

ROOMS = (1, 3, 4, 7)
"""Of the held-out rooms, by their place in the first shard."""
CAPTIONS = [
    "there is a white lamp, a green plant and an orange sofa",
    "a view of a blue bed, a yellow rug and a white window",
    "this room has a green wardrobe, a purple rug and a white desk",
    "an interior with a red sofa, a brown table and a black lamp",
]
PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"


def stored(path: Path) -> list[bytes]:
    """The files of the chosen rooms in a shard."""
    with tarfile.open(path) as tar:
        names = sorted(tar.getnames())
        files = [tar.extractfile(names[n]) for n in ROOMS]
        return [file.read() for file in files if file is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished quick start")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rooms = options.folder / "rooms" / "test"
    images = stored(rooms / "rgb" / "shard-00000.tar")
    photographs = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])
    levels = [np.asarray(Image.open(io.BytesIO(d)), np.float32) for d in stored(rooms / "depth" / "shard-00000.tar")]
    depth = np.stack(levels)[:, None] * 16 / 65535  # metres, see rooms.md
    left: NDArray[np.bool_] = np.zeros(photographs.shape[1:3], bool)
    left[:, : left.shape[1] // 2] = True
    jobs: dict[str, dict[str, Any]] = {
        "rgb_to_all": {"given": {"rgb": photographs}, "to": ["depth", "normal", "semseg", "caption", "det"]},
        "caption_to_all": {"given": {"caption": CAPTIONS}, "to": ["semseg", "depth", "normal", "rgb"]},
        "depth_to_rgb": {"given": {"depth": depth}, "to": ["semseg", "normal", "rgb", "caption"]},
        "half_to_whole": {"given": {"rgb": photographs}, "known": {"rgb": left}, "to": ["rgb", "caption"]},
    }
    for name, job in jobs.items():
        answers = fourm.generate(options.folder / "model", seed=options.seed, **job)
        answers.grid().save(PICTURES / f"{name}.png", optimize=True)
        print(PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
