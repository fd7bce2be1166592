"""The rules by which a document of text and images becomes tokens and images in a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import cast

import numpy as np

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_parts import Ids, Image, Part, Parts, Text, Vocabulary, without_some
from fourm.rng import generator

_ENDLESS = 1 << 62


@dataclass(frozen=True)
class Words:
    """Ids in a row.

    Args:
        ids: (n,).
        asked: whether they are to be predicted.
        added: whether they are special tokens around a document or an image, and no text.
    """

    ids: Ids
    asked: bool
    added: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Picture:
    """An image with the special tokens around it, which is never cut.

    Args:
        image: which.
        before, after: the special tokens.
        num_tokens: of all of it.
    """

    image: Image
    before: tuple[Words, ...]
    after: tuple[Words, ...]
    num_tokens: int


Piece = Words | Picture


class Packer:
    """Documents to pieces of a row.

    Args:
        config: the rules.
        vocabulary: the text tokenizer.
        num_image_tokens: places that an image takes.

    Raises:
        ConfigError: if the vocabulary lacks a special token.
    """

    def __init__(self, config: InterleavedConfig, vocabulary: Vocabulary, num_image_tokens: int) -> None:
        self.config, self.vocabulary, self.num_image_tokens = config, vocabulary, num_image_tokens
        self._ids = {token: np.array([vocabulary.id_of(token)], np.int64) for token in config.special}
        names = sorted({*config.placeholders, *config.special}, key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, names))) if names else None

    def pack(self, parts: Parts, rng: np.random.Generator, room: int, first: bool = True) -> list[Piece] | None:
        """The pieces of a document.

        Args:
            parts: the document.
            rng: draws alternatives, places of images and stretches.
            room: most tokens.
            first: whether it begins a row's document, and is not a later part of a group.

        Returns:
            at least one that is no added token; None if the rules leave the document out.
        """
        if self.config.drop_given_image:
            parts = without_some(parts, self.config.drop_given_image, rng)
        pieces = self._pieces(parts, rng, room, first)
        single = self.config.drop_single_image and sum(isinstance(piece, Picture) for piece in pieces) == 1
        if not pieces or (single and rng.random() < self.config.drop_single_image):
            return None
        return _ask(pieces, self.config)

    def longest(self, parts: Parts) -> int:
        """Tokens of a document; where something is drawn, of the longest. 0 if the rules leave it out."""

        def longest(part: Part) -> Part:
            if isinstance(part, Image) or isinstance(part.text, str):
                return part
            return replace(part, text=max(part.text, key=lambda text: len(self.vocabulary.encode(text))))

        most = self.config.num_tokens
        room = _ENDLESS if self.config.window == "random" else most
        pieces = self._pieces([longest(part) for part in parts], generator("longest"), room, True)
        return min(sum(piece.num_tokens for piece in pieces), most)

    def _pieces(self, parts: Parts, rng: np.random.Generator, room: int, first: bool) -> list[Piece]:
        """The same as `pack`, without what is asked of images; empty if a rule leaves the document out."""
        config = self.config
        begin = [self._added(config.bos)] if first and config.bos is not None else []
        body = _first_words(self._tokens(arrange(self._choose(parts, rng), config, rng)), config.max_text_tokens)
        if config.eos is not None:
            asked = config.loss_on not in ("last_image", "none")
            asked = asked and not (body and isinstance(body[-1], Words) and not body[-1].asked)
            body.append(self._added(config.eos, asked))
        room -= sum(piece.num_tokens for piece in begin)
        total, start = sum(piece.num_tokens for piece in body), 0
        if config.window == "random" and total > room:
            start = int(rng.integers(total - room + 1))
        body = _stretch(body, start, start + max(room, 0))
        if config.window == "random":
            body = _first_images(body, config.max_images)
        if config.drop_trailing_image:
            body = _without_trailing_images(body)
        count = sum(isinstance(piece, Picture) for piece in body)
        if count < config.min_images or not any(isinstance(p, Picture) or not p.added for p in body):
            return []
        return [*begin, *body]

    def _choose(self, parts: Parts, rng: np.random.Generator) -> list[Part]:
        """One of the alternatives of every text, and the images that are used."""
        config, found, images = self.config, list[Part](), 0
        most = None if config.window == "random" else config.max_images
        for part in parts:
            if isinstance(part, Text):
                texts = _alternatives(part)
                text = texts[int(rng.integers(len(texts)))] if len(texts) > 1 else texts[0]
                text = text if part.template else self.escape(text)
                found.append(part if text == part.text else replace(part, text=text))
                continue
            if config.takes(part.similarity) and (most is None or images < most):
                images += 1
                found.append(part)
        return found

    def escape(self, text: str) -> str:
        """A text of data, in which no name of a special token means this token."""
        return text if self._literal is None else self._literal.sub(lambda match: match[0].swapcase(), text)

    def _tokens(self, parts: Sequence[Part]) -> list[Piece]:
        """Texts that meet are encoded as one, whatever is asked of them; those that an image parts, each by itself."""
        found: list[Piece] = []
        for are_images, stretch in groupby(parts, lambda part: isinstance(part, Image)):
            if are_images:
                found += [self._picture(cast(Image, part)) for part in stretch]
            else:
                found += self._words(cast(list[Text], list(stretch)))
        return found

    def _words(self, texts: Sequence[Text]) -> list[Words]:
        """Texts that meet; what joins two of them belongs to the second."""
        said, asked, before = list[str](), list[bool](), None
        for text in texts:
            join = self.config.join if before and not (before.template or text.template) else ""
            if asked and asked[-1] == text.asked:
                said[-1] += join + cast(str, text.text)
            else:
                said.append(join + cast(str, text.text))
                asked.append(text.asked)
            before = text
        encoded = zip(self.vocabulary.encode_parts(said), asked)
        return [Words(ids, is_asked) for ids, is_asked in encoded if len(ids)]

    def _picture(self, image: Image) -> Picture:
        before, after = (
            () if token is None else (self._added(token),) for token in (self.config.image_begin, self.config.image_end)
        )
        return Picture(image, before, after, self.num_image_tokens + len(before) + len(after))

    def _added(self, token: str, asked: bool = False) -> Words:
        return Words(self._ids[token], asked, added=True)


def arrange(parts: Sequence[Part], config: InterleavedConfig, rng: np.random.Generator) -> list[Part]:
    """Put images before or behind the texts they belong to, and say which texts are asked."""
    found: list[Part] = []
    waiting: list[Part] = []
    for place, part in enumerate(parts):
        if isinstance(part, Image):
            if part.paired:
                waiting.append(part)
            else:
                found += [*waiting, part]
                waiting = []
            continue
        marked = bool(waiting) or (place > 0 and isinstance(parts[place - 1], Image))
        asked = _is_asked(part, config) and (marked or not config.after_marked_images_only)
        text = part if part.asked == asked else replace(part, asked=asked)
        if not waiting or config.image_first == 1 or rng.random() < config.image_first:
            between = [Text(config.after_image, text.asked, template=True)] if config.after_image else []
            found += [part for image in waiting for part in (image, *between)] + [text]
        else:
            found += [text, *waiting]
        waiting = []
    return found + waiting


def _is_asked(text: Text, config: InterleavedConfig) -> bool:
    if config.loss_on in ("last_image", "none"):
        return False
    return text.asked or config.loss_on in ("all", "text")


def _ask(pieces: list[Piece], config: InterleavedConfig) -> list[Piece]:
    """Say which images are asked, and with them the tokens around them."""
    images = [n for n, piece in enumerate(pieces) if isinstance(piece, Picture)]
    for n in images:
        piece = cast(Picture, pieces[n])
        asked = {
            "answers": piece.image.asked,
            "all": True,
            "text": False,
            "last_image": n == images[-1],
            "none": False,
        }[config.loss_on]
        text = config.loss_on in ("answers", "all")
        before, after = (
            tuple(replace(w, asked=text and asked and config.ask_image_tokens in kinds) for w in words)
            for words, kinds in ((piece.before, ("begin", "both")), (piece.after, ("both",)))
        )
        pieces[n] = replace(piece, image=replace(piece.image, asked=asked), before=before, after=after)
    return pieces


def _alternatives(text: Text) -> tuple[str, ...]:
    return (text.text,) if isinstance(text.text, str) else text.text


def _first_words(pieces: Sequence[Piece], most: int | None) -> list[Piece]:
    """The pieces up to so many tokens of text."""
    if most is None:
        return list(pieces)
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Words):
            if most == 0:
                break
            piece = replace(piece, ids=piece.ids[:most])
            most -= piece.num_tokens
        found.append(piece)
    return found


def _stretch(pieces: Iterable[Piece], start: int, end: int) -> list[Piece]:
    """The tokens from start to end; images of which a part lies outside are left out.

    From the beginning, the document ends where an image does not fit.
    """
    found: list[Piece] = []
    at = 0
    for piece in pieces:
        first, last = at, at + piece.num_tokens
        at = last
        if first >= end:
            break
        if isinstance(piece, Picture):
            if first >= start and last <= end:
                found.append(piece)
            elif first >= start:
                break
            continue
        ids = piece.ids[max(start - first, 0) : end - first]
        if len(ids):
            found.append(piece if len(ids) == len(piece.ids) else replace(piece, ids=ids))
    return found


def _first_images(pieces: Sequence[Piece], most: int | None) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Picture) and most is not None:
            if not most:
                continue
            most -= 1
        found.append(piece)
    return found


def _without_trailing_images(pieces: Sequence[Piece]) -> list[Piece]:
    last = max((n for n, piece in enumerate(pieces) if isinstance(piece, Words) and not piece.added), default=-1)
    return [piece for n, piece in enumerate(pieces) if n <= last or not isinstance(piece, Picture)]
