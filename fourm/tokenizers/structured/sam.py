"""Instances at points of an image as text (4M-21, Bachmann et al. 2024), and back.

For each point `point v0=y v1=x` (y first), then either `none` or, for every instance the point lies in,
`polygon v0=xmin v1=ymin v2=xmax v3=ymax` and the 16 codes of its mask, a picture of 64 x 64 that fills the box.
Coordinates are pixels of a crop of 224 x 224, whatever the size of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourm.errors import DataError
from fourm.tokenizers.structured.words import Words, box_words, code_words, codes, finite, from_bin, to_bin

NOTHING = "none"
_POINT = "point"
_INSTANCE = "polygon"
NUM_MASK_TOKENS = 16
SIZE = 224
"""Pixels of the crop that coordinates count, in both directions."""


def sam_to_text(points: Sequence[Mapping[str, Any]], *, rng: np.random.Generator | None = None) -> str:
    """Points and their instances as text; no points give an empty text.

    Args:
        points: of each, `point` (x, y) and `instances`, a list of those it lies in: `box` (xmin, ymin, xmax, ymax) and
            `token_ids` (16 ids below 1,024). Coordinates are shares of width and height.
        rng: shuffles the points, and the instances of each; None: they keep their order.

    Raises:
        DataError: if a point or an instance is not of this form.
    """
    if isinstance(points, str | Mapping) or not hasattr(points, "__len__"):
        raise DataError(f"instances are {type(points).__name__}; expected a list of points")
    return " ".join(word for place in _order(len(points), rng) for word in _point(points[place], rng))


def _point(one: Mapping[str, Any], rng: np.random.Generator | None) -> list[str]:
    if not isinstance(one, Mapping) or "point" not in one:
        raise DataError(f"a point is {one!r}; expected a mapping with point and instances")
    x, y = _pixels(one["point"], 2, "point")
    words = [_POINT, f"v0={y}", f"v1={x}"]
    instances = one.get("instances", ())
    for place in _order(len(instances), rng):
        instance = instances[place]
        if not isinstance(instance, Mapping) or not {"box", "token_ids"} <= set(instance):
            raise DataError(f"an instance is {instance!r}; expected a mapping with box and token_ids")
        words += [_INSTANCE, *box_words(_pixels(instance["box"], 4, "box"))]
        words += code_words(codes(instance["token_ids"], NUM_MASK_TOKENS, "token_ids"))
    return words if instances else [*words, NOTHING]


def _pixels(values: Any, count: int, what: str) -> list[int]:
    return [to_bin(value, 0.0, 1.0, SIZE + 1) for value in finite(values, count, what)]


def _shares(pixels: Sequence[int]) -> tuple[float, ...]:
    return tuple(from_bin(pixel, 0.0, 1.0, SIZE + 1) for pixel in pixels)


def _order(count: int, rng: np.random.Generator | None) -> Sequence[int]:
    return range(count) if rng is None else rng.permutation(count).tolist()


def text_to_sam(text: str) -> list[dict[str, Any]]:
    """The points in a text and their instances. Whatever belongs to none is passed over.

    Args:
        text: what `sam_to_text` writes, or anything else.

    Returns:
        points as `sam_to_text` takes them, with xmin <= xmax and ymin <= ymax. Instances that are broken are left out.
    """
    words = Words(text)
    points: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    while (word := words.next()) is not None:
        if word == _POINT:
            instances = []  # what follows a broken point belongs to none
            place = words.numbers(0, 1, below=SIZE + 1)
            if place is not None:
                points.append({"point": _shares(place[::-1]), "instances": instances})
        elif word == _INSTANCE and (box := words.box(SIZE + 1)) is not None:
            ids = words.codes(NUM_MASK_TOKENS)
            if ids is not None:
                instances.append({"box": _shares(box), "token_ids": ids})
    return points
