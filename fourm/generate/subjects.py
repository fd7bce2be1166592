"""Subjects of an image that is asked for: words of its text with how they look, and where they are to be (Emu2-Gen)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fourm.errors import ConfigError, DataError
from fourm.generate.phrases import IMAGE, Phrases

Box = tuple[float, float, float, float]
_FORM = "WORDS=FILE, WORDS@LEFT,TOP,RIGHT,BOTTOM or both, for instance 'a red chair=chair.png@0.1,0.2,0.5,0.9'"
_BOX = re.compile(r"@([\d.,\s+-]*)$")


@dataclass(frozen=True)
class Subject:
    """Words of a text, and what is said of them by images.

    Args:
        words: a part of the text.
        image: file that shows how they look; None: not given.
        box: left, top, right, bottom as shares of width and height; None: anywhere.
    """

    words: str
    image: Path | None = None
    box: Box | None = None


def parse_subject(said: str) -> Subject:
    """A subject as it is written on the command line: `WORDS=FILE@LEFT,TOP,RIGHT,BOTTOM`, without file or without box.

    Raises:
        ConfigError: if it has another form.
        DataError: if it has a box that is none.
    """
    found = _BOX.search(said)
    words, _, file = said[: found.start() if found else None].partition("=")
    if not words.strip() or not (file.strip() or found):
        raise ConfigError(f"--subject '{said}': expected {_FORM}")
    box = parse_box(found[1], f"--subject '{said}'") if found else None
    return Subject(words.strip(), Path(file.strip()) if file.strip() else None, box)


def parse_box(text: str, where: str) -> Box:
    """Four numbers between commas.

    Raises:
        DataError: if they are no box.
    """
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    return check_box(numbers or text, where)


def check_box(box: Sequence[float] | str, where: str = "subject") -> Box:
    """The same box.

    Raises:
        DataError: if it is none.
    """
    if not isinstance(box, str) and len(box) == 4:
        left, top, right, bottom = box
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    shown = box if isinstance(box, str) else ",".join(f"{number:g}" for number in box)
    raise DataError(
        f"{where}: a box is '{shown}'; expected left,top,right,bottom as shares of the image from 0 to 1, left below "
        "right and top below bottom"
    )


def with_places(text: str, subjects: Sequence[tuple[str, bool, bool]], phrases: Phrases) -> tuple[str, list[int]]:
    """A text with places for the images of its subjects, as a model was trained.

    Args:
        text: of all.
        subjects: words of the text, and whether there are an image of their box and one of how they look.
        phrases: how that is put.

    Returns:
        the text, in which `<image>` stands for the box and then for the looks of every subject, and the numbers of the
        subjects in the order of the text.

    Raises:
        DataError: if words are not in the text, or less often than they are given.
    """
    found: list[tuple[int, int, int]] = []
    for number in sorted(range(len(subjects)), key=lambda n: -len(subjects[n][0])):  # "a red chair" before "chair"
        words = subjects[number][0]
        literal = re.escape(words)
        places = (*re.finditer(rf"(?<!\w){literal}(?!\w)", text), *re.finditer(literal, text))  # whole words first
        spans = (place.span() for place in places)
        span = next((s for s in spans if all(s[1] <= first or last <= s[0] for first, last, _ in found)), None)
        if span is None:
            raise DataError(
                f"'{words}' is no part of the text '{text}', or is given more often than it stands there: name "
                "subjects in the words of the text"
            )
        found.append((*span, number))
    found.sort()
    for first, last, number in reversed(found):
        words, has_box, has_looks = subjects[number]
        shown = phrases.place * has_box + IMAGE * has_looks
        text = text[:first] + phrases.subject.format(text=words) + shown + text[last:]
    return phrases.compose.format(text=text), [number for *_, number in found]
