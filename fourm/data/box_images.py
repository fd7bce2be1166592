"""Boxes as images: what Emu2 reads in place of coordinates (Sun et al. 2024, sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LINE, _SIZE = 3, 448


def box_image(box: Sequence[float], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A white outline on black, 3 pixels thick at 448 pixels, and in proportion at other sizes.

    Args:
        box: x1, y1, x2, y2 in 0..1.
        size: (height, width) of the image.

    Returns:
        (H, W, 3) uint8. The outline lies inside the box, and is at least one pixel thick.
    """
    height, width = size
    line = max(1, round(_LINE * min(size) / _SIZE))
    x1, x2 = (round(min(max(value, 0.0), 1.0) * width) for value in (box[0], box[2]))
    y1, y2 = (round(min(max(value, 0.0), 1.0) * height) for value in (box[1], box[3]))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    image[y1 + line : max(y2 - line, y1 + line), x1 + line : max(x2 - line, x1 + line)] = 0
    return image
