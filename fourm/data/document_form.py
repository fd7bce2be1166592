"""How documents are written around a model of text and images, which its prompts have to repeat; free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from fourm.data.interleaved_configs import ChatConfig, InterleavedConfig

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class DocumentForm:
    """The form of the documents that a model has learned from. It is saved with the model.

    Args:
        start: token before every document, by its name.
        image_begin, image_end: tokens around every image.
        after_image: between an image and its text.
        chat: what stands around the turns of conversations; None: it has seen none.
        phrases: how questions are put to it: a name or phrases, see `fourm.generate.phrases`.
    """

    start: str | None = None
    image_begin: str | None = None
    image_end: str | None = None
    after_image: str = ""
    chat: ChatConfig | None = None
    phrases: Any = None


def form_of(packings: Iterable[Any], phrases: Any = None) -> DocumentForm | None:
    """The form of documents that are packed by these rules; None where none of them holds text and images.

    Of rules that differ, the first that says something counts, and for conversations the first that reads some.

    Args:
        packings: of the data sets that a model is trained on.
        phrases: see `DocumentForm`.
    """
    rules = [packing for packing in packings if isinstance(packing, InterleavedConfig)]
    if not rules:
        return None
    return DocumentForm(
        _first(rule.bos for rule in rules),
        _first(rule.image_begin for rule in rules),
        _first(rule.image_end for rule in rules),
        _first(rule.after_image for rule in rules) or "",
        _first(rule.chat if rule.reader == "chat" else None for rule in rules),
        phrases,
    )


def _first(values: Iterable[_Value | None]) -> _Value | None:
    return next((value for value in values if value), None)
