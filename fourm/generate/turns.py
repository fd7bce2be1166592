"""Conversations as prompts, put together by the code that puts together those that models learn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_packing import Packer, Piece, Words
from fourm.data.interleaved_readers import conversation, with_images
from fourm.errors import ConfigError, DataError
from fourm.generate.interleaved import Row
from fourm.generate.phrases import IMAGE
from fourm.rng import generator
from fourm.tokens import Segment

_ENDLESS = 1 << 62


def known_id(tokenizer: Any, name: str | None) -> int | None:
    """The id of a token by its name; None where the vocabulary has none of that name."""
    try:
        return int(tokenizer.id_of(name)) if name else None
    except ConfigError:
        return None


class Turns:
    """Writes conversations.

    Args:
        row: modalities of the model.
        tokenizer: of its text.
        form: how its documents are written; `chat` is given, and all tokens are in the vocabulary.
    """

    def __init__(self, row: Row, tokenizer: Any, form: DocumentForm) -> None:
        assert form.chat is not None
        self.row, self.chat, self.after_image = row, form.chat, form.after_image
        rules = InterleavedConfig(
            num_tokens=_ENDLESS, bos=form.start, image_begin=form.image_begin, image_end=form.image_end
        )
        self.packer = Packer(rules, tokenizer, num_image_tokens=1)

    def said(self, text: str, num_images: int) -> str:
        """What a user says of images that stand before the words."""
        return (IMAGE + self.after_image) * num_images + text

    def asked(self, text: str, num_images: int) -> str:
        """What a user says of images, of which those that have no place in the words stand before them."""
        return self.said(text, max(num_images - text.count(IMAGE), 0))

    def prompt(self, turns: Sequence[tuple[str, str]], images: Sequence[NDArray[Any]]) -> list[Segment]:
        """A conversation up to what comes next; see `Interleaved.chat`."""
        if not turns:
            raise DataError("there are no turns to go on from; give at least what the user said first")
        missing = len(images) - sum(text.count(IMAGE) for turn in turns for text in turn)
        users = [self.said(user, max(missing, 0) if n == 0 else 0) for n, (user, _) in enumerate(turns)]
        *before, (last, begun) = zip(users, (answer for _, answer in turns))
        said = [*(t for user, answer in before for t in (("user", user), ("assistant", answer))), ("user", last)]
        try:
            parts = conversation(self.chat, with_images(said, range(len(images))), begun)
        except ValueError as error:
            raise DataError(f"the conversation has {error}") from None
        pieces = self.packer.pack(parts, generator("prompt"), _ENDLESS)
        return list(self._segments(pieces or [], images))

    def _segments(self, pieces: Iterable[Piece], images: Sequence[NDArray[Any]]) -> Iterable[Segment]:
        """Pieces with their images; ids that meet are one segment."""
        ids: list[int] = []
        for piece in pieces:
            around = ((piece,), ()) if isinstance(piece, Words) else (piece.before, piece.after)
            ids += [int(i) for words in around[0] for i in words.ids]
            if isinstance(piece, Words):
                continue
            if ids:
                yield Segment(self.row.text, np.array(ids, np.int64))
            yield Segment(self.row.image or "", images[int(piece.image.name)])
            ids = [int(i) for words in around[1] for i in words.ids]
        if ids:
            yield Segment(self.row.text, np.array(ids, np.int64))
