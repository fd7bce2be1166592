"""Pictures and their instances as a data set in COCO's form, made in several processes and resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fourm.data.files import publish, write_error
from fourm.errors import DataError
from fourm.prepare.progress import progress_bar
from fourm.workers import Work, run_tasks

ANNOTATIONS, IMAGES = "annotations.json", "images"
_PARTS, _SETTINGS = ".parts", "settings.json"
_CHUNK = 50


class Picture(NamedTuple):
    """One picture.

    Args:
        image: its file, png.
        size: (height, width).
        instances: label from 1 and visible mask (H, W) of each.
    """

    image: bytes
    size: tuple[int, int]
    instances: Sequence[tuple[int, NDArray[np.bool_]]]


Draw = Callable[[int], Picture]
"""Picture of a number: pure, so that any process can make it, and picklable."""


@dataclass(frozen=True)
class Chunk:
    """Pictures start <= n < stop."""

    out: Path
    start: int
    stop: int

    @property
    def part(self) -> Path:
        """The file that says that they are there."""
        return self.out / _PARTS / f"{self.start:07d}-{self.stop:07d}.json"


def write_scenes(
    out: Path,
    draw: Draw,
    *,
    num: int,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    workers: int,
    progress: bool = True,
) -> None:
    """Write `out/images/*.png` and `out/annotations.json`, which comes last.

    The files are the same for any number of workers and after interruptions.

    Args:
        out: folder of the data set; made if missing.
        draw: makes a picture.
        num: how many.
        classes: names of the labels from 1.
        settings: what the pictures depend on; a folder with other ones is refused.
        workers: processes.
        progress: show a progress bar.

    Raises:
        DataError: if the folder holds something else or cannot be written.
    """
    info = json.loads(json.dumps({"num": num, "classes": list(classes), **settings}))
    chunks = [Chunk(out, start, min(start + _CHUNK, num)) for start in range(0, num, _CHUNK)]
    if _found_settings(out) not in (None, info):
        raise DataError(
            f"{out} already holds scenes of other settings ({json.dumps(_found_settings(out))}; asked for: "
            f"{json.dumps(info)}): choose another folder, or remove this one first"
        )
    if (out / ANNOTATIONS).exists():
        return
    if not out.joinpath(_PARTS).exists() and out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty, and holds no scenes: choose another folder")
    publish(out / _PARTS / _SETTINGS, json.dumps(info).encode())
    todo = [chunk for chunk in chunks if not chunk.part.exists()]
    done = num - sum(chunk.stop - chunk.start for chunk in todo)
    with progress_bar("scenes", num, done, visible=progress) as on_step:
        run_tasks(partial(_start, draw), todo, workers, on_step, "scene process")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for chunk in chunks:
        for picture in json.loads(chunk.part.read_bytes()):
            images.append(picture["image"])
            for one in picture["annotations"]:
                annotations.append({"id": len(annotations) + 1, **one})
    categories = [{"id": n, "name": name} for n, name in enumerate(classes, 1)]
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    publish(out / ANNOTATIONS, json.dumps(content, separators=(",", ":")).encode())
    shutil.rmtree(out / _PARTS, ignore_errors=True)


def _found_settings(out: Path) -> Any:
    """The settings of what is there; None if nothing is."""
    for path, key in ((out / ANNOTATIONS, "info"), (out / _PARTS / _SETTINGS, None)):
        if path.exists():
            try:
                content = json.loads(path.read_bytes())
                return content.get(key, {}) if key else content
            except (OSError, ValueError, AttributeError) as error:
                raise DataError(f"{path} cannot be read: {error}. Remove {out}, or choose another folder") from None
    return None


def _start(draw: Draw, number: int) -> Work[Chunk]:
    return partial(_write, draw)


def _write(draw: Draw, chunk: Chunk, on_step: Callable[[], None]) -> None:
    found = []
    folder = chunk.out / IMAGES
    for n in range(chunk.start, chunk.stop):
        picture = draw(n)
        name = f"{n:06d}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(picture.image)
        except OSError as error:
            raise write_error(folder / name, error) from error
        height, width = picture.size
        image = {"id": n + 1, "file_name": name, "width": width, "height": height}
        found.append({"image": image, "annotations": [_annotation(n + 1, *one) for one in picture.instances]})
        on_step()
    publish(chunk.part, json.dumps(found).encode())


def _annotation(image: int, label: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "image_id": image,
        "category_id": label,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
    }


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask (H, W) down its columns, outside and inside by turns."""
    flat = mask.flatten(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff([0, *ends, len(flat)]).tolist()
    return [0, *lengths] if flat[0] else lengths
