"""Captions: true sentences about what a view shows, in varied words.

A caption names every class that covers at least `NAMED_SHARE` of the image and no other, so that `objects_in` recovers
the set. It never names floor, wall or ceiling, which are everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.classes import CLASSES, NAMED_SHARE, OBJECTS
from fourm.words import plural

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTED_SHARE = NAMED_SHARE / 4
OPENINGS = (
    "a room with {}",
    "there is {}",
    "this room has {}",
    "we see {}",
    "{}",
    "an interior with {}",
    "a view of {}",
)
_EMPTY = ("an almost empty room", "a bare corner of a room", "a room with nothing much in it", "an empty room")
_SIDE = ("to the {} of", "{} of")


@dataclass(frozen=True)
class Seen:
    """One visible object.

    Args:
        kind, colour: as captions call it.
        share: of the image that it covers.
        box: x1, y1, x2, y2 in 0..1 around its visible pixels.
        depth: median over its pixels, metres.
    """

    kind: str
    colour: str
    share: float
    box: tuple[float, float, float, float]
    depth: float

    @property
    def centre(self) -> float:
        """Horizontal middle of the box."""
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True)
class Group:
    """All objects of one kind that are named together."""

    kind: str
    members: tuple[Seen, ...]

    @property
    def single(self) -> bool:
        return len(self.members) == 1

    @property
    def middle(self) -> float:
        return sum(member.centre for member in self.members) / len(self.members)

    def words(self, colours: bool) -> str:
        """`a red sofa`, `two chairs`."""
        shades = {member.colour for member in self.members}
        colour = f"{shades.pop()} " if colours and len(shades) == 1 and self.kind != "plant" else ""
        if self.single:
            text = colour + self.kind
            return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
        count = len(self.members)
        return f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {colour}{plural(self.kind)}"


def visible_objects(semseg: NDArray[np.integer]) -> set[str]:
    """The classes a caption of this (H, W) map of class ids names: those that cover at least `NAMED_SHARE` of it."""
    counts = np.bincount(np.asarray(semseg).ravel(), minlength=len(CLASSES))
    return {name for name in OBJECTS if counts[CLASSES.index(name)] >= NAMED_SHARE * semseg.size}


def describe(rng: np.random.Generator, seen: list[Seen], named: set[str], count: int = 5) -> list[str]:
    """Alternative captions of one view.

    Args:
        seen: its visible objects.
        named: classes to name.
        count: alternatives at most; fewer if there is not enough to say.

    Returns:
        At least one caption.
    """
    groups = group_objects(seen, named)
    if not groups:
        return [_EMPTY[k] for k in rng.permutation(len(_EMPTY))[:2]]
    styles = [_listing, _relating, _relating, _plain, _across]
    captions = [styles[k % len(styles)](rng, groups) for k in range(count)]
    return list(dict.fromkeys(captions))


def group_objects(seen: list[Seen], named: set[str]) -> list[Group]:
    """Objects that are named together. Largest kinds first; of a kind, only clearly visible members count."""
    groups = []
    for kind in named:
        members = sorted((item for item in seen if item.kind == kind), key=lambda item: -item.share)
        clear = tuple(item for item in members if item.share >= COUNTED_SHARE)
        groups.append(Group(kind, clear or tuple(members[:1])))
    return sorted(groups, key=lambda group: (-sum(item.share for item in group.members), group.kind))


def join_words(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _listing(rng: np.random.Generator, groups: list[Group]) -> str:
    """With colours and counts, the largest first."""
    return _pick(rng, OPENINGS).format(join_words([group.words(colours=True) for group in groups]))


def _plain(rng: np.random.Generator, groups: list[Group]) -> str:
    """Without colours, in any order."""
    order = rng.permutation(len(groups))
    return _pick(rng, OPENINGS).format(join_words([groups[k].words(colours=False) for k in order]))


def _across(rng: np.random.Generator, groups: list[Group]) -> str:
    """In the order in which they stand from left to right."""
    if len(groups) < 2 or not all(group.single for group in groups):
        return _listing(rng, groups)
    ordered = sorted(groups, key=lambda group: group.middle)
    if min(b.middle - a.middle for a, b in pairwise(ordered)) < 0.04:
        return _listing(rng, groups)
    opening = _pick(rng, ("from left to right: {}", "from left to right {}", "left to right, {}"))
    return opening.format(join_words([group.words(colours=bool(rng.integers(2))) for group in ordered]))


def _relating(rng: np.random.Generator, groups: list[Group]) -> str:
    """One or two relations between objects, then the rest."""
    relations = relations_between(rng, groups)
    if not relations:
        return _listing(rng, groups)
    colours = bool(rng.integers(3))
    first, words, second = relations[rng.integers(len(relations))]
    sentence = f"{first.words(colours)} {words} {second.words(colours)}"
    rest = [group for group in groups if group not in (first, second)]
    further = [(a, w, b) for a, w, b in relations if a is second and b in rest]
    if further and rng.integers(2):
        _, words, third = further[rng.integers(len(further))]
        sentence += f" which is {words} {third.words(colours)}"
        rest.remove(third)
    if rest:
        others = join_words([group.words(colours) for group in rest])
        sentence += _pick(rng, (", also {}", ", with {}", ", then {}", "; {}")).format(others)
    return sentence


def relations_between(rng: np.random.Generator, groups: list[Group]) -> list[tuple[Group, str, Group]]:
    """All clear relations between single objects: side by side, or one behind the other where they overlap in x."""
    found = []
    single = [group for group in groups if group.single]
    for a in single:
        for b in single:
            one, other = a.members[0], b.members[0]
            overlap = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
            narrow = min(one.box[2] - one.box[0], other.box[2] - other.box[0])
            if other.centre - one.centre > 0.12 and overlap < 0.35 * narrow:
                found.append((a, _pick(rng, _SIDE).format("left"), b))
                found.append((b, _pick(rng, _SIDE).format("right"), a))
            elif overlap > 0.35 * narrow and other.depth - one.depth > 0.6 and "rug" not in (one.kind, other.kind):
                found.append((a, "in front of", b))
                found.append((b, "behind", a))
    return found
