"""Which classes a sentence names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from fourm.catalog import FASHION_CLASSES


def names_in(text: str, names: Sequence[str]) -> list[str]:
    """The names a text holds, singular or plural, in the order of their first mention, each once.

    `names_in("two beds and a rug", ROOM_CLASSES)` is `["bed", "rug"]`. A name inside a longer one does not count:
    `t-shirt` is no `shirt`.

    Args:
        text: any text; hyphens may stand apart (`t - shirt`), as word pieces put them.
        names: what to look for, lower case.
    """
    pattern, forms = _forms(tuple(names))
    words = re.sub(r"\s*-\s*", "-", text.lower())
    return list(dict.fromkeys(forms[word] for word in pattern.findall(words)))


def class_in(text: str, classes: Sequence[str] = FASHION_CLASSES) -> str | None:
    """The first class a caption names; None if it names none."""
    return next(iter(names_in(text, classes)), None)


def plural(name: str) -> str:
    """The plural of a class name."""
    if name.endswith("f"):
        return f"{name[:-1]}ves"
    return f"{name}es" if name.endswith(("s", "sh", "ch", "x")) else f"{name}s"


@lru_cache(maxsize=16)
def _forms(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    forms = {form: name for name in names for form in (name, plural(name))}
    longest_first = sorted(forms, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])"), forms
