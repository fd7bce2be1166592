"""COCO's average precision by its definition, slowly: what the library's is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
One = Mapping[str, Any]


def box_overlap(found: One, i: int, truth: One, j: int) -> float:
    """IoU of two boxes; with a crowd, the share of the found one that lies in it."""
    a, b = np.asarray(found["boxes"][i], float), np.asarray(truth["boxes"][j], float)
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return both / (area_a if truth["iscrowd"][j] else area_a + area_b - both)


def mask_overlap(found: One, i: int, truth: One, j: int) -> float:
    """The same of masks."""
    a, b = np.asarray(found["masks"][i], bool), np.asarray(truth["masks"][j], bool)
    return float((a & b).sum() / (a.sum() if truth["iscrowd"][j] else (a | b).sum()))


def average_precision(
    found: Sequence[One],
    truth: Sequence[One],
    overlap: Callable[[One, int, One, int], float],
    thresholds: Sequence[float] = tuple(THRESHOLDS),
) -> float:
    """Mean over thresholds and the classes that occur."""
    classes = sorted({int(k) for one in truth for k, crowd in zip(one["labels"], one["iscrowd"]) if not crowd})
    return float(np.mean([_of_class(found, truth, overlap, k, t) for k in classes for t in thresholds]))


def _of_class(
    found: Sequence[One], truth: Sequence[One], overlap: Callable[..., float], label: int, threshold: float
) -> float:
    judged: list[tuple[float, bool]] = []  # score, whether right; what is neither is left out
    total = 0
    for one, true in zip(found, truth):
        mine = [i for i in range(len(one["labels"])) if one["labels"][i] == label]
        theirs = [j for j in range(len(true["labels"])) if true["labels"][j] == label]
        single = [j for j in theirs if not true["iscrowd"][j]]
        total += len(single)
        taken: set[int] = set()
        for i in sorted(mine, key=lambda i: -float(one["scores"][i]))[:100]:
            free = [(overlap(one, i, true, j), j) for j in single if j not in taken]
            best = max(free, default=(0.0, -1))
            if best[0] >= threshold:
                taken.add(best[1])
                judged.append((float(one["scores"][i]), True))
            elif not any(overlap(one, i, true, j) >= threshold for j in theirs if true["iscrowd"][j]):
                judged.append((float(one["scores"][i]), False))
    right = np.cumsum([is_right for _, is_right in sorted(judged, key=lambda pair: -pair[0])])
    precision = right / np.arange(1, len(right) + 1)
    recall = right / total
    # At each recall the best precision that is reached there or beyond.
    return float(np.mean([max(precision[recall >= r], default=0.0) for r in RECALLS]))
