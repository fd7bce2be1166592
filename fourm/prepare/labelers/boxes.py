"""Boxes that users drew, in the form of the catalog's `det`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fourm.prepare.upright import turn_box

Box = tuple[str, float, float, float, float]
"""Name of the class, and x1, y1, x2, y2 in pixels of some picture."""
_DIGITS = 6


def instances(boxes: Iterable[Box], size: tuple[float, float], orientation: int = 1) -> bytes:
    """Boxes as JSON, in shares of the upright photograph, cut off at its edges; what lies beyond is left out.

    Args:
        boxes: in pixels.
        size: (height, width) of the picture these are of.
        orientation: by which the picture is turned upright.
    """
    height, width = size
    found = []
    for name, x1, y1, x2, y2 in boxes:
        left, right = (min(max(x / width, 0.0), 1.0) for x in (x1, x2))
        top, bottom = (min(max(y / height, 0.0), 1.0) for y in (y1, y2))
        if left < right and top < bottom:
            corners = turn_box((left, top, right, bottom), orientation)
            found.append({"boxes": [round(c, _DIGITS) for c in corners], "class_name": name, "score": 1.0})
    return json.dumps({"instances": found}).encode()
