"""Pictures that documents need beside those of the data: things alone, boxes drawn as pictures, a look along a room."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fourm.data.box_images import box_image
from fourm.prepare.documents.facts import Room
from fourm.prepare.rooms.caption import Seen
from fourm.prepare.rooms.classes import CLASSES

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in 0..1."""
_MARGIN = 0.1
_SMALLEST_SHARE, _SMALLEST_SIDE = 0.03, 0.2
_FRAMES = 4


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def things(room: Room, picture: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Kind and picture of everything in a room that is large enough to be known alone."""
    for item in room.seen:
        if (data := alone(item, picture)) is not None:
            yield item.kind, data


def alone(item: Seen, picture: Image.Image, labels: NDArray[np.uint8] | None = None) -> bytes | None:
    """An object and little around it, as large as all of the picture; None if it is too small to be known so.

    Args:
        item: the object.
        picture: that shows it.
        labels: (H, W) classes of its pixels; then what is around the object is transparent, and keeps its colours.
    """
    x1, y1, x2, y2 = item.box
    if item.share < _SMALLEST_SHARE or min(x2 - x1, y2 - y1) < _SMALLEST_SIDE:
        return None
    return enlarged(picture, item.box, None if labels is None else _mask(item, labels))


def enlarged(picture: Image.Image, box: Box, mask: Image.Image | None = None) -> bytes:
    """What is in a box and little around it, as large as all of the picture; transparent where a mask is black."""
    x1, y1, x2, y2 = box
    x, y = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
    around = (max(x1 - x, 0), max(y1 - y, 0), min(x2 + x, 1), min(y2 + y, 1))
    part = _part(picture, around)
    if mask is not None:
        part.putalpha(_part(mask.convert("L"), around))
    return png(part)


def _mask(item: Seen, labels: NDArray[np.uint8]) -> Image.Image:
    """Where an object is, if it is the only one of its kind: 255 there, 0 elsewhere."""
    inside = np.zeros_like(labels)
    x1, y1, x2, y2 = (round(value * side) for value, side in zip(item.box, labels.shape[::-1] * 2))
    inside[y1:y2, x1:x2] = 255
    return Image.fromarray(np.where(labels == CLASSES.index(item.kind), inside, 0).astype(np.uint8))


def box_of(mask: Image.Image) -> Box | None:
    """The smallest box around all that is not black; None if there is nothing."""
    found = mask.getbbox()
    if found is None:
        return None
    x1, y1, x2, y2 = found
    return x1 / mask.width, y1 / mask.height, x2 / mask.width, y2 / mask.height


def look_along(room: Room, picture: Image.Image) -> tuple[list[bytes], list[tuple[int, Seen]]]:
    """Frames of a look along a room from left to right, each half of the picture wide.

    Returns:
        the frames, and of every object that is named the frame in which its middle comes into view.
    """
    starts = np.linspace(0, 0.5, _FRAMES)
    frames = [png(_part(picture, (start, 0.25, start + 0.5, 0.75))) for start in starts.tolist()]
    appears = []
    for item in (member for group in room.groups for member in group.members):
        middle = (item.box[1] + item.box[3]) / 2
        if 0.25 <= middle < 0.75:
            appears.append((int(np.argmax(starts + 0.5 > item.centre)), item))
    return frames, sorted(appears, key=lambda entry: (entry[0], entry[1].centre))


def drawn_box(box: Box, size: int) -> bytes:
    """Where an object is, as a picture."""
    return png(Image.fromarray(box_image(box, (size, size))))


def _part(picture: Image.Image, box: Box) -> Image.Image:
    """A part of a picture, x1, y1, x2, y2 in 0..1, as large as all of it."""
    scale = (picture.width, picture.height) * 2
    corners: Any = tuple(round(value * side) for value, side in zip(box, scale))
    return picture.crop(corners).resize(picture.size, Image.Resampling.BICUBIC)
