"""What can be said of rooms: interleaved stories, descriptions without pictures, and questions about these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fourm.prepare.documents.facts import Room
from fourm.prepare.documents.questions import Question
from fourm.prepare.rooms.caption import NUMBERS, OPENINGS, join_words, relations_between
from fourm.words import plural

_FIRST = ("the first room: {}.", "we begin here: {}.", "at the door of the house: {}.")
_NEXT = ("the next room: {}.", "then we come to this one: {}.", "behind it: {}.", "further on: {}.")
_LAST = ("the last room: {}.", "at the end: {}.")
_PROMPT, _ANSWER = "question: {}", " answer:"
_MOST_ADDED = 4


def article(words: str) -> str:
    """`a bed`, `an orange bed`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def prompt(question: str) -> str:
    """A question as all documents put it, up to where its answer comes."""
    return _PROMPT.format(question) + _ANSWER


def story(rooms: Sequence[Room], rng: np.random.Generator) -> list[Any]:
    """Some rooms one after another, each with its sentence, and sentences that compare it with the one before."""
    parts: list[Any] = []
    for n, room in enumerate(rooms):
        openings = _FIRST if n == 0 else _LAST if n == len(rooms) - 1 else _NEXT
        sentence = pick(rng, openings).format(pick(rng, room.captions))
        parts += [{"image": room.image, "paired": True}, sentence]
        compared = _compared(rooms[n - 1], room) if n else []
        if compared:
            parts.append(pick(rng, compared))
    return parts


def _compared(before: Room, room: Room) -> list[str]:
    """What is true of two rooms together."""
    had, has = ({item.kind for item in r.seen} for r in (before, room))
    both = sorted(set(before.named) & set(room.named))
    found = [f"both rooms have {article(kind)}." for kind in both]
    found += [f"unlike the room before, it has no {kind}." for kind in sorted(set(before.named) - has)]
    return found + [f"the room before had no {kind}." for kind in sorted(set(room.named) - had)]


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of several."""
    return options[int(rng.integers(len(options)))]


def description(room: Room, rng: np.random.Generator) -> str:
    """Some sentences about a room, in any order."""
    count = min(len(room.captions), int(rng.integers(2, 4)))
    return " ".join(f"{room.captions[n]}." for n in rng.permutation(len(room.captions))[:count])


def passage(room: Room, rng: np.random.Generator) -> tuple[str, list[tuple[str, str, str]]]:
    """A description, and what can be asked about it alone.

    Returns:
        the description, and kind of question, question and answer of each; there are none for an empty room.
    """
    groups = room.groups
    if not groups:
        return f"{pick(rng, room.captions)}.", []
    order = [groups[n] for n in rng.permutation(len(groups))]
    words = pick(rng, OPENINGS).format(join_words([group.words(colours=True) for group in order])) + "."
    asked: list[tuple[str, str, str]] = []
    for group in order:
        count = len(group.members)
        shades = {member.colour for member in group.members}
        if group.single and group.kind != "plant":
            asked.append(("colour", f"what colour is the {group.kind}?", shades.pop()))
        if count < len(NUMBERS):
            asked.append(("count", f"how many {plural(group.kind)} are there?", NUMBERS[count]))
    asked += [("first", "what is named first?", order[0].kind), ("last", "what is named last?", order[-1].kind)]
    relations = relations_between(rng, groups)
    if relations:
        a, where, b = relations[int(rng.integers(len(relations)))]
        words += f" {a.words(colours=False)} {where} {b.words(colours=False)}."
        if sum(one is a for one, _, _ in relations):
            asked.append(("relation", f"what is {where} the {b.kind}?", a.kind))
    return words, asked


def texts(rooms: Sequence[Room], rng: np.random.Generator, room: Room) -> Iterator[str]:
    """Text-only documents that a room gives rise to: a description, questions about one, counting, a list."""
    yield description(room, rng)
    words, asked = passage(room, rng)
    chosen = [asked[n] for n in rng.permutation(len(asked))[:3]]
    yield " ".join([words, *(f"{prompt(question)} {answer}." for _, question, answer in chosen)])
    one, two = (int(rng.integers(1, _MOST_ADDED + 1)) for _ in range(2))
    kind = pick(rng, sorted({item.kind for other in rooms for item in other.seen}))
    first, second, both = (f"{NUMBERS[n]} {kind if n == 1 else plural(kind)}" for n in (one, two, one + two))
    yield f"{first} and {second} are {both}."
    if len(room.groups) > 1:
        kinds = [room.groups[n].kind for n in rng.permutation(len(room.groups))]
        count = f"{NUMBERS[len(kinds)]} kinds of things" if len(kinds) < len(NUMBERS) else "many kinds of things"
        listed = join_words([article(kind) for kind in kinds])
        yield f"a list: {listed}. these are {count}. the first is {article(kinds[0])}, the last {article(kinds[-1])}."


def conversation(room: Room, asked: Sequence[Question], rng: np.random.Generator) -> list[dict[str, str]]:
    """Turns about a picture, in LLaVA's form: questions, and perhaps a description or a list of what is there."""
    turns = [(question.text, question.answer) for question in asked]
    if not turns or rng.random() < 0.5:
        turns.append((pick(rng, ("describe the room.", "what does the picture show?")), pick(rng, room.captions)))
    if room.groups and rng.random() < 0.5:
        kinds = join_words([article(group.kind) for group in room.groups])
        turns.append(("list what is there, the largest first.", kinds))
    ordered = [turns[n] for n in rng.permutation(len(turns))]
    said = []
    for n, (question, answer) in enumerate(ordered):
        said.append({"from": "human", "value": question if n else f"<image>{question}"})
        said.append({"from": "gpt", "value": answer})
    return said
