"""Photographs with labels of a user's, made for tests."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from fourm.config import build
from fourm.data.decode import decode
from fourm.prepare.labelers.base import TURNED, Origin, Photo
from fourm.prepare.labelers.configs import LABELER_KINDS
from fourm.registry import implementation


def png(values: Any, kind: str = "PNG", **options: Any) -> bytes:
    """Values as an image file."""
    buffer = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def photo(
    size: tuple[int, int] = (40, 60),
    *,
    stored: tuple[int, int] | None = None,
    orientation: int = 1,
    beside: Mapping[str, bytes] | None = None,
    file: str = "cats/tom.jpg",
    namesake: bool = False,
) -> Photo:
    """A photograph as labelers see it.

    Args:
        size: (height, width) of the upright photograph.
        stored: (height, width) after it was made smaller.
        orientation: EXIF's, from which it was turned.
        beside: template -> file of the user's.
        file: its name.
        namesake: others are called so.
    """
    notes = (TURNED.format(orientation),) if orientation != 1 else ()
    image = np.zeros((*(stored or size), 3), np.uint8)
    origin = Origin(file, size[1], size[0], notes)
    return Photo("cats/tom", image, origin, beside=beside or {}, namesake=namesake)


def labeler(kind: str, **options: Any) -> Any:
    """A labeler as a recipe describes it, and the modality it makes."""
    config = build(LABELER_KINDS.resolve(kind), options)
    return implementation(config.target)(config, "cpu"), config.modality("mine")


def label(kind: str, given: Photo, **options: Any) -> Any:
    """What training reads of one label."""
    made, modality = labeler(kind, **options)
    return decode(made.label([given])[0], modality, lambda: "test")


def boxes(given: Any) -> dict[str, list[float]]:
    """Boxes by name."""
    return {one["class_name"]: one["boxes"] for one in given}


def coco(**parts: Any) -> bytes:
    return json.dumps({"info": {"year": 2014}, **parts}).encode()
