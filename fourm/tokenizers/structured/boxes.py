"""Facts written as text: boxes as `v0=x1 v1=y1 v2=x2 v3=y2 class` (4M, Mizrahi et al. 2023, sec. A.3), and back."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any

from fourm.tokenizers.structured.words import NUMBER

_BOX = re.compile(
    rf"(?<!\S)v0=({NUMBER})\s+v1=({NUMBER})\s+v2=({NUMBER})\s+v3=({NUMBER})\s+(.*?)\s*(?=v[0-9]=|$)", re.DOTALL
)


def boxes_to_text(instances: Sequence[Mapping[str, Any]], *, num_bins: int = 1000, min_score: float = 0.6) -> str:
    """Boxes as text, those near the top left corner first; no boxes give an empty text.

    Args:
        instances: `{"boxes": [x1, y1, x2, y2], "class_name": ..., "score": ...}` with coordinates in [0, 1].
        num_bins: numbers a coordinate can take; a coordinate c becomes round(c * (num_bins - 1)).
        min_score: instances with a lower score are left out.

    Raises:
        ValueError: for what is no box: not four coordinates, or some far outside of the image.
    """
    kept = []
    for one in instances:
        box = [float(c) for c in one["boxes"]]
        if len(box) != 4 or not all(-1 <= c <= 2 for c in box):
            raise ValueError(f"boxes is {one['boxes']}; expected [x1, y1, x2, y2] as shares of the image, 0 to 1")
        if float(one.get("score", 1.0)) >= min_score:
            kept.append((box[0] ** 2 + box[1] ** 2, box, one["class_name"]))
    kept.sort(key=itemgetter(0))
    return " ".join(_box_to_text(box, name, num_bins - 1) for _, box, name in kept)


def text_to_boxes(text: str, *, num_bins: int = 1000, classes: Collection[str] = ()) -> list[dict[str, Any]]:
    """The boxes in a text. Whatever is not a box is passed over: any text, also a badly generated one, gives a list.

    Args:
        text: what `boxes_to_text` writes, or anything else.
        num_bins: as in `boxes_to_text`.
        classes: names that count; empty: any.

    Returns:
        instances as `boxes_to_text` takes them, with score 1: coordinates in [0, 1], x1 <= x2, y1 <= y2, a class name.
    """
    instances = []
    for match in _BOX.finditer(text):
        bins = [int(number) for number in match.groups()[:4]]
        name = " ".join(match[5].split())
        ordered = bins[0] <= bins[2] and bins[1] <= bins[3]
        known = name in classes if classes else bool(name)
        if ordered and known and max(bins) < num_bins:
            instances.append({"boxes": [b / (num_bins - 1) for b in bins], "class_name": name, "score": 1.0})
    return instances


def _box_to_text(box: Sequence[float], name: Any, largest: int) -> str:
    x1, y1, x2, y2 = (round(min(max(c, 0.0), 1.0) * largest) for c in box)
    return f"v0={x1} v1={y1} v2={x2} v3={y2} {name}"
