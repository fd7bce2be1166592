"""People as text, 39 words each (4M-21, Bachmann et al. 2024), and back.

`human v0=x1 v1=y1 v2=x2 v3=y2`, then four blocks in any order: `pose` and 8 codes of the body's pose, `global` and the
9 numbers of its rotation, `camera` and 3 numbers, `shape` and 10 numbers. Nobody is `none`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourm.errors import DataError
from fourm.tokenizers.structured.words import Words, box_words, code_words, codes, finite, from_bin, to_bin

NOBODY = "none"
_PERSON = "human"
_POSE = "pose"
NUM_POSE_TOKENS = 8
BLOCKS: dict[str, tuple[str, int, float, float]] = {
    "global": ("global_orient", 9, -1.0, 1.0),
    "camera": ("camera", 3, -1.0, 19.0),
    "shape": ("betas", 10, -3.0, 3.0),
}
"""Word -> key of its numbers, how many they are, and the range that the bins share."""


def poses_to_text(
    people: Sequence[Mapping[str, Any]], *, num_bins: int = 1000, rng: np.random.Generator | None = None
) -> str:
    """People as text, in their order.

    Args:
        people: of each, `bbox` (x1, y1, x2, y2) in shares of the image; and, as far as they are known, `pose_tokens`
            (8 ids below 1,024), `global_orient` (9 numbers, a rotation row by row), `camera` (scale, x, y of the weak
            perspective camera of the box) and `betas` (10 numbers of the SMPL body's shape).
        num_bins: numbers an axis can take, at least 512; what lies outside a range is written as its end.
        rng: shuffles the blocks of each person; None: pose, global, camera, shape.

    Raises:
        DataError: if a person is not of this form.
    """
    if isinstance(people, str | Mapping) or not hasattr(people, "__len__"):
        raise DataError(f"poses are {type(people).__name__}; expected a list of people")
    return " ".join(" ".join(_person(person, num_bins, rng)) for person in people) or NOBODY


def _person(person: Mapping[str, Any], num_bins: int, rng: np.random.Generator | None) -> list[str]:
    if not isinstance(person, Mapping) or "bbox" not in person:
        raise DataError(f"a person is {person!r}; expected a mapping with bbox")
    blocks = []
    if person.get("pose_tokens") is not None:
        blocks.append([_POSE, *code_words(codes(person["pose_tokens"], NUM_POSE_TOKENS, "pose_tokens"))])
    for word, (key, count, low, high) in BLOCKS.items():
        if person.get(key) is not None:
            numbers = finite(person[key], count, key)
            blocks.append([word, *(f"v0={to_bin(number, low, high, num_bins)}" for number in numbers)])
    order = range(len(blocks)) if rng is None else rng.permutation(len(blocks))
    box = [to_bin(side, 0.0, 1.0, num_bins) for side in finite(person["bbox"], 4, "bbox")]
    return [_PERSON, *box_words(box), *(word for place in order for word in blocks[place])]


def text_to_poses(text: str, *, num_bins: int = 1000) -> list[dict[str, Any]]:
    """The people in a text. Whatever does not belong to one is passed over.

    Args:
        text: what `poses_to_text` writes, or anything else.
        num_bins: as in `poses_to_text`.

    Returns:
        people as `poses_to_text` takes them, with x1 <= x2 and y1 <= y2. A person without a whole box is left out; a
        block that is broken or missing is absent, and of two of a kind the first counts.
    """
    words = Words(text)
    people: list[dict[str, Any]] = []
    person: dict[str, Any] = {}
    while (word := words.next()) is not None:
        if word == _PERSON:
            person = {}  # what follows a broken box belongs to nobody
            box = words.box(num_bins)
            if box is not None:
                person["bbox"] = tuple(from_bin(side, 0.0, 1.0, num_bins) for side in box)
                people.append(person)
        elif word == _POSE and (ids := words.codes(NUM_POSE_TOKENS)) is not None:
            person.setdefault("pose_tokens", ids)
        elif word in BLOCKS:
            key, count, low, high = BLOCKS[word]
            numbers = words.numbers(*[0] * count, below=num_bins)
            if numbers is not None:
                person.setdefault(key, [from_bin(number, low, high, num_bins) for number in numbers])
    return people
