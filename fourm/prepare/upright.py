"""What was drawn on a picture as it lies in its file, brought onto the photograph that EXIF turned upright."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fourm.data.geometry import same_shape
from fourm.errors import DataError
from fourm.prepare.labelers.base import Origin

_MOVES = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""EXIF orientation -> exchange rows and columns, then mirror left and right, then top and bottom."""


def turn_for(size: tuple[int, int], origin: Origin, lies_on: Literal["auto", "upright", "file"]) -> int:
    """The EXIF orientation by which a label has to be turned to lie on its photograph; 1 for none.

    Args:
        size: (height, width) of the picture it was drawn on.
        origin: of the photograph.
        lies_on: whether that was the `upright` picture, or the one in the `file`; `auto` goes by the shape, and takes
            it as upright where that does not tell.

    Raises:
        DataError: if that picture had another shape than the photograph.
    """
    upright = (origin.height, origin.width)
    turn = origin.orientation
    lying = upright[::-1] if _MOVES[turn][0] else upright
    fits = {"upright": same_shape(size, upright), "file": same_shape(size, lying)}
    if lies_on == "auto":
        lies_on = "file" if fits["file"] and not fits["upright"] else "upright"
    if not fits[lies_on]:
        seen = upright if lies_on == "upright" else lying
        raise DataError(
            f"it is for {size[1]} x {size[0]} pixels (width x height), the photograph has {seen[1]} x {seen[0]}, which "
            "is another shape: it was cropped or belongs to another picture"
        )
    return turn if lies_on == "file" else 1


def turn_pixels(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image (H, W[, C]) turned upright."""
    swap, mirror, upend = _MOVES[orientation]
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    pixels = pixels[:, ::-1] if mirror else pixels
    return pixels[::-1] if upend else pixels


def turn_normals(normals: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Surface normals (H, W, 3), 8-bit, turned upright: the vectors, x right and y up, turn with the picture."""
    swap, mirror, upend = _MOVES[orientation]
    x, y, z = np.moveaxis(turn_pixels(normals, orientation), -1, 0)
    x, y = (255 - y, 255 - x) if swap else (x, y)
    return np.stack([255 - x if mirror else x, 255 - y if upend else y, z], -1)


def turn_box(box: tuple[float, float, float, float], orientation: int) -> tuple[float, float, float, float]:
    """A box, x1, y1, x2, y2 in shares of the picture, turned upright."""
    swap, mirror, upend = _MOVES[orientation]
    x1, y1, x2, y2 = box
    if swap:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if mirror:
        x1, x2 = 1 - x2, 1 - x1
    if upend:
        y1, y2 = 1 - y2, 1 - y1
    return x1, y1, x2, y2
