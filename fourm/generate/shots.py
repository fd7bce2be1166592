"""Examples that are shown before a question: given one by one, or chosen of many by how their images look."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.data.interleaved_files import read_image
from fourm.errors import DataError
from fourm.generate.interleaved_prompts import Interleaved

Example = tuple[Tensor, str, str]
"""An image (C, H, W) as the model reads it, what is asked about it, and the answer."""
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_ENCODED_TOGETHER = 32


@dataclass(frozen=True)
class Shot:
    """An example in files.

    Args:
        root: folder that the name begins in.
        image: its name; of a member of a tar as in documents.
        question: None: the one that is asked.
        answer: to it.
    """

    root: Path
    image: str
    question: str | None
    answer: str

    def read(self, model: Interleaved) -> Tensor:
        """(C, H, W) of its image, as the model reads it.

        Raises:
            DataError: if it is missing or damaged.
        """
        return model.read_bytes(read_image(self.root, self.image), str(self.root / self.image))

    def shown(self, model: Interleaved, question: str) -> Example:
        """What the model is shown before a question."""
        return self.read(model), question if self.question is None else self.question, self.answer


def open_shots(place: Path) -> list[Shot]:
    """The examples of a file or a folder.

    Args:
        place: a file of lines, each with `image`, `answer` and perhaps `question`, or the questions that `fourm prepare
            documents` writes; or a folder of images, each with its answer in a `.txt` of the same name.

    Raises:
        DataError: if there are none, or a line is no example.
    """
    found = _of_folder(place) if place.is_dir() else _of_lines(place)
    if not found:
        raise DataError(
            f"--examples {place}: there are none; expected a folder of images with a .txt beside each, or a file of "
            'lines {"image": NAME, "question": TEXT, "answer": TEXT}'
        )
    return found


def _of_folder(folder: Path) -> list[Shot]:
    try:
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES)
        answers = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in images]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--examples {folder}: the answer of an image cannot be read: {error}. Put a .txt of the same name beside "
            "every image"
        ) from None
    return [Shot(folder, path.name, None, answer) for path, answer in zip(images, answers)]


def _of_lines(path: Path) -> list[Shot]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--examples {path}: cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_shot(path.parent, json.loads(line)))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(
                f"--examples {path}, line {number}: expected an object with image, answer and perhaps question, which "
                f"are texts, found {line[:100]}"
            ) from None
    return found


def _shot(root: Path, line: Any) -> Shot:
    """The example of a line; ValueError and the like if there is none."""
    image = line["image"] if "image" in line else _only_image(line["parts"])
    question, answer = line.get("question"), line["answer"]
    if not (isinstance(image, str) and isinstance(answer, str) and isinstance(question, str | None)):
        raise ValueError("no texts")
    return Shot(root, image, question, answer)


def _only_image(parts: Any) -> Any:
    (image,) = (part["image"] for part in parts if "image" in part)
    return image


def one_of_each(shots: Iterable[Shot], question: str) -> list[Shot]:
    """One example of every image: of several the first that asks the same, or else the first."""
    found: dict[tuple[Path, str], Shot] = {}
    for shot in shots:
        kept = found.setdefault((shot.root, shot.image), shot)
        if shot.question == question != kept.question:
            found[shot.root, shot.image] = shot
    return list(found.values())


def nearest(model: Interleaved, query: Tensor, images: Iterable[Tensor], count: int) -> list[int]:
    """Which examples are most like an image, the most similar one last (RICES, Yang et al. 2022).

    An example of the very image that is asked about would give its answer away, and is left out.

    Args:
        model: likeness is the cosine of the means of its vectors of images.
        query: (C, H, W).
        images: (C, H, W) each; so many as are encoded together are held at a time.
        count: most examples.

    Raises:
        DataError: if no other image is left.
    """
    means, others = [_mean(model, [query])], list[int]()
    waiting = enumerate(images)
    while some := list(islice(waiting, _ENCODED_TOGETHER)):
        kept = {number: image for number, image in some if not torch.equal(image, query)}
        others += kept
        means += [_mean(model, list(kept.values()))] if kept else []
    if not others:
        raise DataError("all examples show the very image that is asked about: give examples of other images")
    found = torch.cat(means)
    best = (found[1:] @ found[0]).argsort(descending=True, stable=True)[:count]
    return [others[n] for n in reversed(best.tolist())]


def _mean(model: Interleaved, images: Sequence[Tensor]) -> Tensor:
    """(n, content.dim) the mean of the vectors of each image, of length 1."""
    return F.normalize(model.encode(images).float().mean(1), dim=1)
