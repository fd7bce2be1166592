"""Subjects of what is painted, from values of unknown origin: words, how they look, and where they are to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fourm.errors import DataError
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.subjects import parse_box, with_places
from fourm.serve.limits import Limits
from fourm.serve.request import check_image, check_text

Subjects = tuple[tuple[str, Tensor | None, Tensor | None], ...]
"""Words, an image of their box, and one of how they look; see `Interleaved.composing`."""


def check_file(model: Interleaved, limits: Limits, data: Any, where: str) -> Tensor:
    """(C, H, W) of an image file of unknown origin, as the model reads it.

    Raises:
        DataError: if it is too large, or no image.
    """
    if not isinstance(data, bytes):
        raise DataError(f"{where}: a value of type {type(data).__name__}; expected a file")
    if len(data) > limits.upload_bytes:
        most = limits.upload_bytes / 2**20
        raise DataError(f"{where}: a file of {len(data) / 2**20:.1f} MB; expected at most {most:g} MB")
    check_image(where, data, limits)
    return model.read_bytes(data, where)


def check_subjects(model: Interleaved, limits: Limits, text: str, values: Sequence[Any]) -> Subjects:
    """The subjects of a text; empty ones are left out.

    Args:
        model: that is asked.
        limits: the most of everything.
        text: checked.
        values: triples of words, the bytes of an image or None, and `left, top, right, bottom` or nothing.

    Raises:
        DataError: if one is half given, wrong, or no part of the text.
    """
    found = []
    for number, (words, image, box) in enumerate(values, 1):
        where = f"subject {number}"
        said = "" if words is None else check_text(f"{where}: the words", words, limits)
        place = "" if box is None else check_text(f"{where}: the place", box, limits)
        if not said and image is None and not place:
            continue
        if not said or (image is None and not place):
            raise DataError(f"{where}: expected words of the text with an image, a place or both")
        drawn = model.box_image(parse_box(place, f"{where}, '{said}'")) if place else None
        looks = None if image is None else check_file(model, limits, image, f"{where}: the image")
        found.append((said, drawn, looks))
    with_places(text, [(said, drawn is not None, looks is not None) for said, drawn, looks in found], model.phrases)
    return tuple(found)


def images_of(subjects: Subjects) -> tuple[Tensor, ...]:
    """All images of subjects, in their order."""
    return tuple(image for _, *shown in subjects for image in shown if image is not None)
