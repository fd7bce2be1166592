"""What a model reads of a conversation: all of it, its last image, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import IMAGE
from fourm.generate.subjects import with_places
from fourm.serve.subjects import Subjects, images_of
from fourm.tokens import Segment

Kind = Literal["ask", "continue", "paint", "rebuild"]
Reads = Literal["all", "last", "nothing"]
READS: tuple[Reads, ...] = ("all", "last", "nothing")


@dataclass(frozen=True)
class Turn:
    """What was said and answered.

    Args:
        kind: of what was asked.
        text: as it was written.
        images: (C, H, W) as the model reads them, which were given with it.
        answers: in words.
        painted: png files.
        subjects: of what was painted.
        last: the image of the conversation that was read before those given.
        seen: (C, H, W) the first of what was painted, as the model reads it.
        reads: what was read of the conversation before.
        num_examples: shown before the question.
    """

    kind: Kind
    text: str
    images: tuple[Tensor, ...] = ()
    answers: tuple[str, ...] = ()
    painted: tuple[bytes, ...] = ()
    subjects: Subjects = ()
    last: tuple[Tensor, ...] = ()
    seen: Tensor | None = None
    reads: Reads = "nothing"
    num_examples: int = 0

    @property
    def shown(self) -> tuple[Tensor, ...]:
        """All images that were read with it."""
        return (*self.last, *self.images, *images_of(self.subjects))


Talk = tuple[Turn, ...]


def last_image(talk: Talk) -> Tensor | None:
    """The newest that was painted or given; None if there is none."""
    for turn in reversed(talk):
        if turn.seen is not None or turn.images:
            return turn.images[-1] if turn.seen is None else turn.seen
    return None


def what_suits(model: Interleaved, turn: Turn, before: Talk) -> Reads:
    """What the model reads of a conversation where nobody chose: what it has been trained for.

    A model of conversations reads all with a question, and with what its phrases put as a turn of a conversation. Any
    other one is asked about the last image where a question comes without.
    """
    if not before or turn.kind in ("continue", "rebuild"):
        return "nothing"
    if turn.kind == "ask" and not turn.images and (turn.num_examples or not model.converses):
        return "nothing" if last_image(before) is None else "last"
    if turn.num_examples or turn.subjects or not model.converses:
        return "nothing"
    in_turns = (turn.kind == "ask" and turn.text) or _parted(model, _phrase(model, turn)) is not None
    return "all" if in_turns else "nothing"


def check_reads(model: Interleaved, turn: Turn, before: Talk, reads: Reads) -> None:
    """See that a model can read so.

    Raises:
        ConfigError: if it cannot, or there is nothing.
    """
    if reads == "all":
        if not model.converses:
            raise ConfigError(
                "this model has learned from no conversations and cannot read all of one: choose its last image, or "
                "nothing of it"
            )
        if turn.kind == "rebuild" or turn.num_examples:
            raise ConfigError(
                "all of a conversation is read with questions, texts and what is painted of them, without examples: "
                "choose its last image, or nothing of it"
            )
    if reads == "last" and last_image(before) is None:
        raise ConfigError("there is no image in this conversation yet: give one, or paint one")
    if reads == "last" and turn.subjects:
        raise ConfigError("subjects have images of their own: choose to read nothing of the conversation")


def conversation(model: Interleaved, before: Talk, turn: Turn) -> list[Segment]:
    """All that was said, as turns, and what is said now; of a painting up to where it begins."""
    turns, images = list[tuple[str, str]](), list[Tensor]()
    for one in before:
        said, begun, shown = _said(model, one)
        turns.append((said, begun + _answer(one)))
        images += [*shown, *([] if one.seen is None else [one.seen])]
    said, begun, shown = _said(model, turn)
    found = model.chat([*turns, (said, begun)], [*images, *shown])
    if turn.kind == "paint" and model.row.begin is not None:
        *found, last = found
        found.append(Segment(last.modality, np.append(last.value, model.row.begin)))
    return found


def _answer(turn: Turn) -> str:
    """The first answer; a place of an image in it is that of what was painted."""
    if turn.seen is not None:
        return IMAGE
    return turn.answers[0].replace(IMAGE, "") if turn.answers else ""


def _said(model: Interleaved, turn: Turn) -> tuple[str, str, Sequence[Tensor]]:
    """What a user said with all places of images, how the answer begins, and the images in their order."""
    shown = [*turn.last, *turn.images]
    if turn.subjects:
        given = [(words, box is not None, looks is not None) for words, box, looks in turn.subjects]
        written, order = with_places(turn.text, given, model.phrases)
        return written, "", [image for n in order for image in turn.subjects[n][1:] if image is not None]
    if turn.kind in ("continue", "rebuild") or (turn.kind == "ask" and turn.text):
        return model.turns.asked(turn.text, len(shown)), "", shown
    phrase = _phrase(model, turn)
    user, begun = _parted(model, phrase) or (phrase, "")
    missing = len(shown) - turn.text.count(IMAGE)
    user = user.replace(IMAGE, model.turns.said(IMAGE, missing - 1) if missing > 0 else "", 1).strip()
    return user.format(text=turn.text), begun, shown


def _phrase(model: Interleaved, turn: Turn) -> str:
    """How something is put: a caption, a painting, another one of an image, or one of several."""
    if turn.kind == "ask":
        return model.phrases.caption
    images = len(turn.last) + len(turn.images)
    return model.phrases.draw if not images else model.phrases.edit if images == 1 else IMAGE + "{text}"


def _parted(model: Interleaved, phrase: str) -> tuple[str, str] | None:
    """What a user says in a phrase that is a turn of a conversation, and how the answer begins; None: it is none."""
    user, assistant = (marker.strip() for marker in (model.turns.chat.user, model.turns.chat.assistant))
    words = phrase.strip()
    if not user or not assistant or not words.startswith(user) or assistant not in words:
        return None
    said, _, begun = phrase[phrase.index(user) + len(user) :].partition(assistant)
    return said.strip(), begun.lstrip()
