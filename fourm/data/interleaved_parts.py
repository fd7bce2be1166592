"""Documents of text and images, and their form in files: one JSON object per line.

{"parts": ["a room", {"image": "rgb/shard-00000.tar/000000.png"}, {"text": "a bed", "asked": false}]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Vocabulary(Protocol):
    """What packing needs of a text tokenizer."""

    @property
    def hash(self) -> str:
        """Equal hashes give equal ids."""

    def encode(self, text: str) -> Ids:
        """(L,) ids of a text; names of special tokens in it become these tokens."""

    def encode_parts(self, parts: Sequence[str]) -> list[Ids]:
        """The ids of a text that is given in parts: those of the whole, divided where the parts meet."""

    def id_of(self, token: str) -> int:
        """The id of a token by its name."""


@dataclass(frozen=True)
class Text:
    """A stretch of text.

    Args:
        text: its words, or several alternatives.
        asked: whether it is to be predicted, where a recipe asks for what is marked so.
        template: whether these words are ours, and no data: names of special tokens mean these tokens.
    """

    text: str | tuple[str, ...]
    asked: bool = True
    template: bool = False


@dataclass(frozen=True)
class Image:
    """An image.

    Args:
        name: of its file; or its number, in aligned data.
        asked: as of `Text`.
        paired: it belongs to the text behind it, and may stand behind that text as well.
        similarity: how well they fit, as the data says.
    """

    name: str | int
    asked: bool = True
    paired: bool = False
    similarity: float | None = None


Part = Text | Image
Parts = Sequence[Part]


def parts_from_json(line: Any) -> list[Part]:
    """The document of a line.

    Raises:
        ValueError: if it is none.
    """
    found = line.get("parts") if isinstance(line, dict) else None
    if not isinstance(found, list):
        raise ValueError('there is no list "parts"')
    return [_part(part) for part in found]


def parts_to_json(parts: Parts) -> dict[str, Any]:
    """What `parts_from_json` reads; what is usual is left out."""
    return {"parts": [_plain(part) for part in parts]}


def _part(value: Any) -> Part:
    if isinstance(value, str):
        return Text(value)
    if not isinstance(value, dict) or ("text" in value) == ("image" in value):
        raise ValueError(f"a part is {value!r}; expected a text, or an object with either text or image")
    asked = bool(value.get("asked", True))
    if "image" in value:
        similarity = value.get("similarity")
        return Image(
            image_name(value["image"]), asked, bool(value.get("paired", False)),
            None if similarity is None else float(similarity),
        )  # fmt: skip
    return Text(texts(value["text"]), asked)


def _plain(part: Part) -> Any:
    if isinstance(part, Text):
        text = part.text if isinstance(part.text, str) else list(part.text)
        return text if part.asked and isinstance(text, str) else {"text": text, "asked": part.asked}
    facts = {"image": part.name, "asked": part.asked, "paired": part.paired, "similarity": part.similarity}
    usual = {"asked": True, "paired": False, "similarity": None}
    return {key: value for key, value in facts.items() if key not in usual or value != usual[key]}


def texts(value: Any) -> str | tuple[str, ...]:
    """A text, or alternatives to draw from.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value[0] if len(value) == 1 else tuple(value)
    raise ValueError(f"expected a text or a list of alternatives, found {value!r}")


def image_name(value: Any) -> str:
    """The name of an image file.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected the name of an image file, found {value!r}")
    return value


def without_some(parts: Parts, share: float, rng: np.random.Generator) -> list[Part]:
    """A document without some of the images before its last one, each left out with a probability."""
    last = max((n for n, part in enumerate(parts) if isinstance(part, Image)), default=-1)
    return [p for n, p in enumerate(parts) if not isinstance(p, Image) or n == last or rng.random() >= share]
