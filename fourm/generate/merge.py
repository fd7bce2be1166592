"""Things found in several answers as one dense set: what overlaps is the same thing, and is kept once.

After the mask generator of Segment Anything (Kirillov et al. 2023): greedy non-maximum suppression, where the score of
a thing is the share of answers that found it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.report.instances import stretched
from fourm.tokenizers.structured.sam import SIZE

Thing = Mapping[str, Any]
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Kind:
    """A kind of value that lists things.

    Args:
        things: one answer -> what it found.
        box: key of a thing's box, (xmin, ymin, xmax, ymax) as shares.
        overlap: intersection over union from which two things are one.
        alike: whether two things can be one at all.
        whole: things that are kept, each with the place of its answer -> one value.
    """

    things: Callable[[Any], Iterable[Thing]]
    box: str
    overlap: float
    alike: Callable[[Thing, Thing], bool] = lambda one, other: True
    whole: Callable[[Sequence[Thing]], Any] = list


def _found_at_points(points: Iterable[Mapping[str, Any]]) -> Iterable[Thing]:
    """Instances, each with the point it was found at."""
    return ({**one, _POINT: point["point"]} for point in points for one in point["instances"])


def _by_point(instances: Sequence[Thing]) -> list[dict[str, Any]]:
    """Instances as `text_to_sam` has them: point by point, those of the best first."""
    points: dict[Any, list[dict[str, Any]]] = {}
    for one in instances:
        points.setdefault(one[_POINT], []).append({key: value for key, value in one.items() if key != _POINT})
    return [{"point": point, "instances": found} for point, found in points.items()]


_POINT = " point"
MERGED: dict[str, _Kind] = {
    "sam": _Kind(_found_at_points, "box", 0.7, whole=_by_point),
    "boxes": _Kind(iter, "boxes", 0.5, lambda one, other: one.get("class_name") == other.get("class_name")),
    "poses": _Kind(iter, "bbox", 0.5),
}
"""`decode` of a modality -> how its things are told apart."""


def merge(answers: Sequence[Any], decode: str) -> Any:
    """All things of several answers, each once, those that most answers found first.

    Two things overlap by the intersection over union of their masks where they have some, or else of their boxes.

    Args:
        answers: values of one kind, as `fourm.tokenizers.structured` reads them, one per answer.
        decode: which kind, a key of `MERGED`.

    Returns:
        one such value. Each thing has a `score`, the share of answers that found it. Empty masks are left out, and so
        are points at which nothing lies, or only what was found elsewhere too.
    """
    kind = MERGED[decode]
    found = [(number, thing) for number, answer in enumerate(answers) for thing in kind.things(answer)]
    if not found:
        return kind.whole([])
    overlaps, sizes = _overlaps([thing for _, thing in found], kind.box)
    same = overlaps >= kind.overlap
    for i, (_, one) in enumerate(found):
        for j in np.flatnonzero(same[i, :i]):
            same[i, j] = same[j, i] = kind.alike(one, found[j][1])
    source = np.array([number for number, _ in found])
    votes = np.array([len(set(source[row])) for row in same])
    kept: list[int] = []
    for i in np.argsort(-votes, kind="stable"):
        if sizes[i] and not same[i, kept].any():
            kept.append(int(i))
    return kind.whole([{**found[i][1], "score": float(votes[i]) / len(answers)} for i in kept])


def _overlaps(things: Sequence[Thing], box: str) -> tuple[Numbers, Numbers]:
    """(N, N) intersection over union, 1 on the diagonal, and (N,) sizes."""
    corners = np.clip(np.array([thing[box] for thing in things], np.float64), 0, 1)
    if any(thing.get("mask") is not None for thing in things):
        pairs = zip(things, corners, strict=True)
        areas = np.stack([_pixels(thing.get("mask"), sides) for thing, sides in pairs]).astype(np.float32)
        both, sizes = (areas @ areas.T).astype(np.float64), areas.sum(1)
    else:
        start = np.maximum(corners[:, None, :2], corners[None, :, :2])
        end = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
        both = (end - start).clip(min=0).prod(-1)
        sizes = (corners[:, 2:] - corners[:, :2]).clip(min=0).prod(-1)
    overlaps = both / np.maximum(sizes[:, None] + sizes[None] - both, 1e-12)
    np.fill_diagonal(overlaps, 1)
    return overlaps, sizes


def _pixels(mask: Any, sides: Numbers) -> NDArray[np.bool_]:
    """(SIZE * SIZE,) bool: where in the picture a mask is above one half, or its box where there is none."""
    left, top, right, bottom = (round(share * (SIZE - 1)) for share in sides.tolist())
    height, width = bottom - top + 1, right - left + 1
    area = np.zeros((SIZE, SIZE), bool)
    if height > 0 and width > 0:
        area[top : bottom + 1, left : right + 1] = True if mask is None else stretched(mask, height, width)
    return area.ravel()
