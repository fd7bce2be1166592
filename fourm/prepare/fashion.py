"""Fashion-MNIST's photographs (Xiao et al. 2017) as aligned modalities: image, silhouette, edges, caption and label."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fourm.catalog import FASHION_CLASSES
from fourm.data.index import keys_digest
from fourm.data.shards import ShardWriter, begin_shards, shard_is_complete
from fourm.data.unpack import unzip
from fourm.errors import DataError, MissingExtraError
from fourm.paths import FASHION_FOLDERS
from fourm.prepare.progress import progress_bar
from fourm.rng import generator
from fourm.workers import Work, run_tasks

Split = Literal["train", "test"]
Image = NDArray[np.uint8]

_LOG = logging.getLogger(__name__)

SOURCES: dict[str, str] = {"image": "png", "silhouette": "png", "edges": "png", "caption": "json", "label": "json"}
"""Source -> extension of its members."""

TEMPLATES = (
    "a photo of a {}",
    "this is a {}",
    "a picture of a {}",
    "a {} on a black background",
    "the photo shows a {}",
    "a grey photo of a {}",
    "here is a {}",
    "a {} from the shop",
)
NUM_CAPTIONS = 4
"""Alternatives stored for each photograph."""

_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_FOREGROUND = 12  # grey value of 255 above which a pixel shows cloth: the background is exactly 0, but for JPEG traces
_CANNY = (70.0, 160.0)  # found by eye on all ten classes: outlines, collars and straps stay, fabric does not
_MAGIC = {3: 2051, 1: 2049}


def prepare_fashion(
    out: Path,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    workers: int = 1,
    shard_size: int = 1000,
    folder: Path | None = None,
) -> None:
    """Write the shards of `out/train` and `out/test`.

    Complete shards are kept, so an interrupted run goes on where it stopped. The bytes do not depend on the
    number of workers.

    Args:
        out: folder of the data set.
        num_train: use only the first so many training photographs; None: all 60,000.
        num_test: the same for the 10,000 test photographs.
        workers: processes.
        shard_size: photographs per shard.
        folder: where the four IDX files are; None looks in the usual places and then tries to download them.

    Raises:
        DataError: if the photographs are not there and cannot be downloaded, or `out` holds other data.
        MissingExtraError: if OpenCV is not installed.
    """
    _opencv()
    out = Path(out)
    folder = folder or find_files(out / "download")
    jobs = [
        job
        for split, limit in (("train", num_train), ("test", num_test))
        for job in _jobs(out, folder, split, limit, shard_size)  # type: ignore[arg-type]
    ]
    missing = [job for job in jobs if not shard_is_complete(job.root, SOURCES, job.shard, keys_digest(job.keys))]
    _LOG.info("Fashion-MNIST: %d of %d shards to write in %s", len(missing), len(jobs), out)
    total = sum(job.stop - job.start for job in missing)
    with progress_bar("photographs", total) as advance:
        run_tasks(_start, missing, workers, advance)


@dataclass(frozen=True)
class _Shard:
    """One shard to write: photographs start to stop of a split."""

    root: Path
    folder: Path
    split: Split
    shard: int
    start: int
    stop: int

    @property
    def keys(self) -> list[str]:
        return [f"{n:06d}" for n in range(self.start, self.stop)]


def _jobs(out: Path, folder: Path, split: Split, limit: int | None, shard_size: int) -> list[_Shard]:
    labels = read_idx(folder, _FILES[split][1], 1)
    total = len(labels) if limit is None else min(limit, len(labels))
    root = out / split
    facts = {source: {"made_by": "fourm prepare fashion"} for source in SOURCES}
    starts = begin_shards(root, facts, total, shard_size)
    return [_Shard(root, folder, split, n, at, min(at + shard_size, total)) for n, at in enumerate(starts)]


def _start(number: int) -> Work[_Shard]:
    return _write_shard


def _write_shard(job: _Shard, on_photo: Callable[[], None]) -> None:
    images, labels = (read_idx(job.folder, name, rank) for name, rank in zip(_FILES[job.split], (3, 1), strict=True))
    if len(images) != len(labels):
        raise DataError(f"{job.folder}: {len(images)} photographs but {len(labels)} labels. Fetch the files again")
    with ShardWriter(job.root, job.shard, SOURCES) as writer:
        for n, key in enumerate(job.keys, job.start):
            writer.write(key, _sample(job.split, n, images[n], int(labels[n])))
            on_photo()


def _sample(split: Split, n: int, image: Image, label: int) -> dict[str, bytes]:
    return {
        "image": _png(image),
        "silhouette": _png(silhouette(image)),
        "edges": _png(edges(image)),
        "caption": json.dumps(captions(label, generator("fashion", split, n))).encode(),
        "label": json.dumps(label).encode(),
    }


def captions(label: int, rng: np.random.Generator) -> list[str]:
    """Different sentences that name a class, in random order.

    Args:
        label: index into `FASHION_CLASSES`.
        rng: chooses the sentences.
    """
    chosen = rng.permutation(len(TEMPLATES))[:NUM_CAPTIONS]
    return [TEMPLATES[i].format(FASHION_CLASSES[label]) for i in chosen]


def silhouette(image: Image) -> Image:
    """Where the piece is: brighter than the background, holes filled.

    Args:
        image: (H, W) grey.

    Returns:
        (H, W), 255 inside and 0 outside.
    """
    cv2 = _opencv()
    mask = np.where(image > _FOREGROUND, 255, 0).astype(np.uint8)
    # Background is what can be reached from outside the frame; all else is the piece or a hole in it.
    outside = np.pad(mask, 1)
    cv2.floodFill(outside, None, (0, 0), 255)
    return np.asarray(mask | ~outside[1:-1, 1:-1], np.uint8)


def edges(image: Image) -> Image:
    """Canny edges.

    Args:
        image: (H, W) grey.

    Returns:
        (H, W), 255 on edges and 0 elsewhere.
    """
    cv2 = _opencv()
    # A frame of background gives pieces that touch the border their outline.
    framed = cv2.copyMakeBorder(image, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)
    return np.ascontiguousarray(cv2.Canny(framed, *_CANNY)[2:-2, 2:-2])


def find_files(download_to: Path) -> Path:
    """The folder with the IDX files: Debian's, an earlier download, or a new one.

    Raises:
        DataError: if they are nowhere and cannot be downloaded; names both remedies.
    """
    downloaded = download_to / "FashionMNIST" / "raw"
    for folder in (*FASHION_FOLDERS, downloaded):
        if all(_file(folder, name) for names in _FILES.values() for name in names):
            return folder
    _LOG.info("downloading Fashion-MNIST to %s", download_to)
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(download_to), download=True)
    except Exception as error:  # torchvision, urllib and the operating system each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"Fashion-MNIST is not on this machine (looked in {FASHION_FOLDERS[0]}) and cannot be downloaded: "
            f"{reason}. Install Debian's package (apt-get install dataset-fashion-mnist), or run the same command once "
            f"where there is network, or put the four files of the data set, {_FILES['train'][0]}.gz and so on, into "
            f"{downloaded}"
        ) from None
    return downloaded


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


@lru_cache(maxsize=4)  # a process writes many shards of the same files
def read_idx(folder: Path, name: str, rank: int) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes, plain or gzipped.

    Args:
        folder: where it is.
        name: without `.gz`.
        rank: number of its dimensions.

    Raises:
        DataError: if it is missing, truncated or of another kind.
    """
    path = _file(folder, name)
    if path is None:
        raise DataError(f"{folder} has no {name}.gz: put the four IDX files of Fashion-MNIST there")
    try:
        content = unzip(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}. Fetch it again") from None
    header = np.frombuffer(content[: 4 * (rank + 1)], ">i4")
    values = np.frombuffer(content, np.uint8, offset=min(len(content), 4 * (rank + 1)))
    if len(header) != rank + 1 or header[0] != _MAGIC[rank] or len(values) != int(np.prod(header[1:])):
        raise DataError(f"{path} is truncated or not an IDX file with {rank} dimensions. Fetch it again")
    return values.reshape(header[1:].tolist())


def _png(image: Image) -> bytes:
    ok, data = _opencv().imencode(".png", image)
    assert ok, "OpenCV encodes any 8-bit image"
    return bytes(data.tobytes())


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("opencv-python-headless", "rooms", "`fourm prepare fashion` (edges)") from None
    cv2.setNumThreads(1)
    return cv2
