"""Names that mean nothing until a document says what they name: the answer cannot be guessed from the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NAMES = (
    *("dax", "wug", "blick", "toma", "fep", "zorp", "kiki", "bouba", "gazzer", "modi", "pilk", "tiv", "lorp", "sneg"),
    *("vash", "quib", "ropa", "yent", "mubb", "flim", "grot", "hesk", "jath", "nool", "parv", "skiz", "thog", "urbo"),
    *("wex", "zill", "cade", "drup"),
)
SHOTS = (1, 2, 4)
_ALIKE: Mapping[str, int] = {
    "table": 0, "desk": 0, "bed": 1, "sofa": 1, "wardrobe": 2, "shelf": 2, "door": 2, "window": 3, "picture": 3,
    "t-shirt": 4, "pullover": 4, "coat": 4, "shirt": 4, "dress": 4, "sandal": 5, "sneaker": 5, "boot": 5,
}  # fmt: skip
"""Kinds of one number are hard to tell apart in small pictures, and do not meet in a document."""


def bound_names(pictures: Mapping[str, Sequence[str]], shots: int, rng: np.random.Generator) -> dict[str, Any]:
    """A document that names two kinds of things with words that mean nothing, and asks for one of them.

    Both are shown equally often, in any order, and both are asked for equally often. A name is asked where the document
    has said before what it names: the last one always, the others once they come again.

    Args:
        pictures: kind -> names of pictures that each show one thing of that kind.
        shots: examples of each kind before the question.
        rng: source of all randomness.

    Returns:
        `parts`, the `answer`, the number of `shots`, and the `kinds` and `names` that were bound.
    """
    first = _draw(rng, [kind for kind in sorted(pictures) if len(pictures[kind]) > shots])
    others = [
        kind
        for kind in sorted(pictures)
        if kind != first and len(pictures[kind]) > shots and _ALIKE.get(kind, kind) != _ALIKE.get(first, first)
    ]
    kinds = [first, _draw(rng, others)]
    names = [NAMES[n] for n in rng.permutation(len(NAMES))[:2]]
    chosen = [[pictures[kind][n] for n in rng.permutation(len(pictures[kind]))[: shots + 1]] for kind in kinds]
    asked_for = int(rng.integers(2))
    order = [int(n) for n in rng.permutation([0, 1] * shots)]
    parts: list[Any] = []
    said: set[int] = set()
    for which in (*order, asked_for):
        parts += [
            {"image": chosen[which].pop(), "asked": False},
            {"text": "this is a", "asked": False},
            {"text": names[which], "asked": which in said},
            {"text": ".", "asked": False},
        ]
        said.add(which)
    return {"parts": parts[:-1], "answer": names[asked_for], "shots": shots, "kinds": kinds, "names": names}


def _draw(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
