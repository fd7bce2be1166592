"""Questions about rooms whose answers cannot be guessed: to no question is one answer much more frequent than others.

How often the best guess without the picture is right is therefore known, and said (`guessable`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fourm.prepare.documents.facts import Room
from fourm.prepare.rooms.caption import COUNTED_SHARE, NUMBERS, Group, Seen
from fourm.rng import generator
from fourm.words import plural

_COLOURED = ("bed", "sofa", "table", "chair", "wardrobe", "shelf", "desk", "rug", "door")
"""Kinds of one colour; of lamps, pictures and windows it is not clear what has it."""
_COUNTED = ("chair", "lamp", "picture", "shelf", "plant", "window", "sofa")
_BEST_GUESS = 0.25
_WORST_GUESS = 0.45
_EDGES = 0.36, 0.64
_MARGIN = 0.03


@dataclass(frozen=True)
class Question:
    """A question about a room.

    Args:
        room: its number.
        kind: of question: colour, count, side, near, large or where.
        text: the question.
        answer: the only true one.
    """

    room: int
    kind: str
    text: str
    answer: str


def questions(rooms: Sequence[Room], seed: int) -> list[Question]:
    """Balanced questions about rooms, in the order of the rooms."""
    candidates = (question for n, room in enumerate(rooms) for question in _about(n, room))
    return sorted(balanced(candidates, seed), key=lambda q: (q.room, q.text))


def balanced(candidates: Iterable[Question], seed: int) -> Iterator[Question]:
    """Of every question so many of each answer that the most frequent one is right in about a quarter of all cases.

    A question with too few answers for that is left out.
    """
    found: defaultdict[str, defaultdict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for question in candidates:
        found[question.text][question.answer].append(question)
    for text, answers in found.items():
        most = _most([len(asked) for asked in answers.values()])
        for answer, asked in answers.items() if most else ():
            order = generator("documents", seed, "balance", text, answer).permutation(len(asked))
            yield from (asked[n] for n in order[:most])


def guessable(asked: Sequence[Question]) -> float:
    """The share of questions that who always gives the most frequent answer to a question gets right."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in asked:
        found[question.text][question.answer] += 1
    return sum(answers.most_common(1)[0][1] for answers in found.values()) / max(len(asked), 1)


def _most(counts: Sequence[int]) -> int:
    """Most questions of each answer; 0: none at all."""
    lowest = 1 / len(counts)
    if lowest > _WORST_GUESS:
        return 0
    most = max(counts)
    while most > 1 and most / sum(min(count, most) for count in counts) > max(_BEST_GUESS, 1.25 * lowest):
        most -= 1
    return most


def _about(n: int, room: Room) -> Iterator[Question]:
    """Everything that can be asked about a room and has one clear answer."""
    for kind in _COLOURED:
        if (item := room.single(kind)) is not None:
            yield Question(n, "colour", f"what colour is the {kind}?", item.colour)
    for kind in _COUNTED:
        members = [item for item in room.seen if item.kind == kind]
        if all(item.share >= COUNTED_SHARE for item in members) and len(members) < 5:
            number = "none" if not members else NUMBERS[len(members)]
            yield Question(n, "count", f"how many {plural(kind)} are there?", number)
    for item in (room.single(group.kind) for group in room.groups):
        place = None if item is None else _cell(item)
        if item is not None and place is not None:
            yield Question(n, "where", f"where is the {item.kind}?", place)
    clear = [group for group in room.groups if group.kind != "rug"]
    yield from _extremes(n, clear)


def _extremes(n: int, groups: Sequence[Group]) -> Iterator[Question]:
    """What is furthest to a side, nearest, and largest, where it is so by far."""
    items = [item for group in groups for item in group.members]
    for kind, text, order, margin in (
        ("side", "what is furthest to the left?", lambda item: item.centre, 0.1),
        ("side", "what is furthest to the right?", lambda item: -item.centre, 0.1),
        ("near", "what is nearest?", lambda item: item.depth, 0.4),
        ("large", "what takes up most space?", lambda item: -item.share, 0.04),
    ):
        first = sorted(items, key=order)[:2]
        if len(first) == 2 and all(order(b) - order(a) > margin for a, b in pairwise(first)):
            yield Question(n, kind, text, first[0].kind)


def _cell(item: Seen) -> str | None:
    """Where the middle of an object is, in words; None if it is too close to an edge between two of them."""
    words = []
    for at, names in (((item.box[1] + item.box[3]) / 2, ("top", "", "bottom")), (item.centre, ("left", "", "right"))):
        if any(abs(at - edge) < _MARGIN for edge in _EDGES):
            return None
        words.append(names[sum(at > edge for edge in _EDGES)])
    return " ".join(word for word in words if word) or "middle"
