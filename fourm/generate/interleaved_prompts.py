"""Prompts of text and images to models that read and write both, and what is usually asked of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.data.box_images import box_image
from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig
from fourm.errors import ConfigError, DataError
from fourm.generate.bundle import Bundle, device_of, text_tokenizer
from fourm.generate.inputs import network_input
from fourm.generate.interleaved import Row, RowWriting, opens_image, write_rows, writes_images
from fourm.generate.painter import painter
from fourm.generate.phrases import IMAGE, Phrases, asks_in_turns, phrases_of
from fourm.generate.reading import read_image
from fourm.generate.subjects import check_box, with_places
from fourm.generate.turns import Turns, known_id
from fourm.rng import torch_seed
from fourm.tokens import Document, Segment

_LOG = logging.getLogger(__name__)
_UNTOLD = DocumentForm(image_begin="[IMG]", image_end="[/IMG]")
"""Of models that say nothing of it."""
_OWN: Any = object()
"""What the form of the model's documents says."""


class Interleaved:
    """A model of text and images, its text tokenizer, and what paints its images.

    Args:
        bundle: model and tokenizers; under the name of the image modality the decoder of its vectors. Its `documents`
            say how documents are written around it, where nothing is given here.
        begin, end: tokens around every image, by their names; those that the vocabulary lacks are not used.
        start: token before every prompt; None: none.
        stop: tokens that end an answer, beside the one that ends every text.
        phrases: how questions are put.
        system: words before every conversation; empty: none.

    Attributes:
        converses: the model has learned from conversations.

    Raises:
        ConfigError: if the model reads no rows of text, or came without its text tokenizer.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        begin: str | None = _OWN,
        end: str | None = _OWN,
        start: str | None = _OWN,
        stop: Sequence[str] = (),
        phrases: Phrases | None = None,
        system: str | None = _OWN,
    ) -> None:
        modalities = bundle.model.modalities.values()
        texts = [m for m in modalities if m.is_discrete and not m.is_grid and m.is_input and m.is_output]
        images = [m for m in modalities if m.is_slots]
        if bundle.model.encoder is not None or len(texts) != 1 or len(images) > 1:
            raise ConfigError(
                "prompts of text and images are for a model without an encoder that reads one modality of text and at "
                f"most one of images with slots; this one has {', '.join(bundle.model.modalities)}"
            )
        form: DocumentForm = getattr(bundle, "documents", None) or _UNTOLD
        self.model, self.bundle = bundle.model, bundle
        self.phrases = phrases_of(form.phrases, form.after_image) if phrases is None else phrases
        self.converses = form.chat is not None
        self.in_turns = phrases is None and self.converses and asks_in_turns(form.phrases)
        self.tokenizer: Any = text_tokenizer(bundle, texts[0])
        self.image = images[0] if images else None
        around = [form.image_begin if begin is _OWN else begin, form.image_end if end is _OWN else end]
        around = [name if images and known_id(self.tokenizer, name) is not None else None for name in around]
        start = form.start if start is _OWN else start
        self.row = Row(
            texts[0].name, self.image.name if self.image else None, *(known_id(self.tokenizer, a) for a in around)
        )
        self.start = None if start is None else self.tokenizer.id_of(start)
        ended = known_id(self.tokenizer, form.chat.end.strip()) if form.chat else None
        ends = [i for i in (self.tokenizer.eos_id, ended) if i is not None]
        self.stop = (*ends, *map(self.tokenizer.id_of, stop))
        chat = form.chat or ChatConfig(user=self.phrases.user, assistant=self.phrases.assistant, end=" ")
        chat = (
            chat if system is _OWN else replace(chat, system=f"{system.strip()} " if system and system.strip() else "")
        )
        form = replace(form, start=start, image_begin=around[0], image_end=around[1], chat=chat)
        self.turns = Turns(self.row, self.tokenizer, form)

    @property
    def paints(self) -> bool:
        """Whether it can be asked for images."""
        return writes_images(self.model, self.row) and (self.row.image or "") in self.bundle.tokenizers

    def read(self, path: Path) -> Tensor:
        """(C, H, W) of an image file, as the model reads it.

        Raises:
            DataError: if it is missing or damaged.
            ConfigError: if the model reads no images.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image {path}: {error.strerror}. Check the path") from None
        return self.read_bytes(data, str(path))

    def read_bytes(self, data: bytes, where: str) -> Tensor:
        """The same of the content of a file, which is called `where` in errors."""
        return read_image(data, self._image_modality(), where)[0][0]

    def images(self, values: Tensor) -> Tensor:
        """(B, C, H, W) colours in [0, 1], of any size, as the model reads them."""
        return network_input(values, self._image_modality(), "prompt")

    def prompt(self, text: str, images: Sequence[Tensor] = (), *, draw: bool = False) -> list[Segment]:
        """What a model reads.

        Args:
            text: words, with `<image>` where an image stands; images without a place stand before all. Spaces beside
                images and at the ends are left out, as documents have none there.
            images: (C, H, W) as the model reads them, or (slots, content.dim) vectors.
            draw: an image is to follow.

        Raises:
            DataError: if there are more places than images.
        """
        parts = text.split(IMAGE)
        missing = len(parts) - 1 - len(images)
        if missing > 0:
            raise DataError(f"the text has {len(parts) - 1} places for images, but {len(images)} are given")
        parts = [""] * -missing + parts
        ids: list[int] = [] if self.start is None else [self.start]
        found: list[Segment] = []
        for number, part in enumerate(parts):
            if number:
                ids += [] if self.row.begin is None else [self.row.begin]
                found += [self._words(ids), Segment(self._image_modality().name, _array(images[number - 1]))]
                ids = [] if self.row.end is None else [self.row.end]
            ids += self.tokenizer.encode(part.strip(" ")).tolist() if part.strip(" ") else []
        if draw and self.row.begin is not None:
            ids.append(self.row.begin)
        return [segment for segment in (*found, self._words(ids)) if len(segment.value)]

    def answer(self, prompts: Sequence[Document], seeds: Tensor, writing: RowWriting = RowWriting()) -> list[str]:  # noqa: B008
        """Text for each prompt.

        Raises:
            ConfigError: if a prompt ends where an image begins.
        """
        if any(opens_image(prompt, self.row) for prompt in prompts):
            raise ConfigError(
                f"the prompt ends with {self.tokenizer.token(self.row.begin)}, where an image begins, but text alone "
                f"is asked for: leave it out, or, if the model paints, ask for images too with --max-images 1"
            )
        if writing.max_images or writing.begin_image:
            raise ConfigError("text alone is asked for, but images are allowed: leave max_images out, or use `write`")
        self._tell_length(prompts)
        writing = replace(writing, stop=(*self.stop, *writing.stop))
        rows = write_rows(self.model, self.row, prompts, seeds, writing)
        return [" ".join(self._text(row)).strip() for row in rows]

    def write(
        self, prompts: Sequence[Document], seeds: Tensor, writing: RowWriting, *, guided: bool = False
    ) -> list[list[str | Tensor]]:
        """Text and images (C, H, W) in natural units of each prompt, in the order in which the model writes them.

        Args:
            prompts: of which some may end where an image begins.
            seeds: (B,).
            writing: how, with at most `max_images` images where the model chooses them.
            guided: see `draw`.

        Raises:
            ConfigError: as of `draw`, or if nothing stands before images in the rows of this model.
        """
        self._check_paints()
        if self.row.begin is None:
            raise ConfigError(
                "the model is to choose where images begin, but nothing stands before images in its rows: ask for "
                "text alone, or for an image with --draw"
            )
        self._check_guided(guided)
        self._tell_length(prompts)
        writing = replace(writing, stop=(*self.stop, *writing.stop))
        rows = write_rows(self.model, self.row, prompts, seeds, writing)
        found = [
            (torch.from_numpy(s.value), n) for n, row in enumerate(rows) for s in row if s.modality != self.row.text
        ]
        owners = [n for _, n in found]
        # The first image of a sample has the sample's seed, as one that is asked for by `draw`.
        own = [_image_seed(int(seeds[n]), owners[:place].count(n)) for place, n in enumerate(owners)]
        empty = self.vectors([self.prompt("", draw=True)], seeds[:1]) if guided else None
        painted = iter(self.paint(torch.stack([v for v, _ in found]), torch.tensor(own), null=empty) if found else ())
        return [[part for part in self._parts(row, painted) if isinstance(part, Tensor) or part] for row in rows]

    def _parts(self, row: Sequence[Segment], painted: Iterator[Tensor]) -> Iterable[str | Tensor]:
        for segment in row:
            is_text = segment.modality == self.row.text
            yield self.tokenizer.decode(segment.value).strip() if is_text else next(painted)

    def vectors(self, prompts: Sequence[Document], seeds: Tensor) -> Tensor:
        """(B, slots, content.dim) of the image that follows each prompt."""
        self._tell_length(prompts)
        writing = RowWriting(max_tokens=0, begin_image=self.row.begin is None)
        rows = write_rows(self.model, self.row, prompts, seeds, writing)
        return torch.stack([torch.from_numpy(row[0].value) for row in rows])

    def draw(self, prompts: Sequence[Document], seeds: Tensor, *, guided: bool = False) -> Tensor:
        """(B, C, H, W) images in natural units that follow prompts which ask for them.

        Args:
            prompts: made with `draw`.
            seeds: (B,) of what the decoder draws.
            guided: guidance moves away from what follows the empty prompt (Emu), and not from what the decoder itself
                knows as no condition (Emu2).

        Raises:
            ConfigError: if the model has no head for vectors, or nothing that paints them, or the decoder paints
                without guidance.
        """
        self._check_paints()
        self._check_guided(guided)
        empty = self.vectors([self.prompt("", draw=True)], seeds[:1]) if guided else None
        return self.paint(self.vectors(prompts, seeds), seeds, null=empty)

    def rebuild(self, images: Sequence[Tensor], seeds: Tensor, *, guided: bool = False) -> Tensor:
        """(B, C, H, W) images in natural units, painted from the vectors of given ones alone (Emu2's autoencoding).

        Args:
            images: (C, H, W) each, as the model reads them.
            seeds: (B,) of what the decoder draws.
            guided: guidance moves away from the vectors of an image of zeros (Emu2's code), and not from what the
                decoder itself knows as no condition.

        Raises:
            ConfigError: if nothing paints vectors, or it paints without guidance.
        """
        self._check_guided(guided)
        nothing = self.encode([torch.zeros_like(images[0])]) if guided else None
        return self.paint(self.encode(images), seeds, null=nothing)

    def _tell_length(self, prompts: Sequence[Document]) -> None:
        """Warn of rows that are longer than those of training: rotary positions take them, but nothing was learned."""
        slots = 0 if self.image is None else self.image.num_tokens
        longest = max(sum(len(s.value) if s.modality == self.row.text else slots for s in row) for row in prompts)
        most = self.model.modalities[self.row.text].num_tokens
        if longest > most:
            _LOG.warning(
                "the prompt has %d tokens, those of images included, but this model has learned from rows of at most "
                "%d: do not rely on what it answers, or ask with fewer words, images or examples",
                *(longest, most),
            )

    def _check_paints(self) -> None:
        if self.image is None:
            raise ConfigError("an image is asked for, but this model reads and writes text alone: ask it for text")
        if not writes_images(self.model, self.row):
            raise ConfigError(
                f"an image is asked for, but this model only reads images: it has no head for the vectors of "
                f"'{self.image.name}'. Ask it about images, or ask a model trained with model.vector_head and an image "
                "modality of direction both"
            )

    def _check_guided(self, guided: bool) -> None:
        decoder = painter(self.bundle, self._image_modality())
        if guided and getattr(getattr(decoder, "sampling", None), "guidance", None) == 1.0:
            raise ConfigError(
                "guided moves images away from what nothing is asked with, but the decoder's sampling.guidance is 1: "
                "load it with a larger one, for instance 3, or leave guided out"
            )

    def paint(self, vectors: Tensor, seeds: Tensor, *, null: Tensor | None = None) -> Tensor:
        """(B, C, H, W) images of vectors (B, slots, content.dim).

        Raises:
            ConfigError: if the model came without a decoder of images, or with one of other vectors.
        """
        decoder = painter(self.bundle, self._image_modality())
        device = device_of(decoder)
        options = {} if null is None else {"null": null.to(device)}
        values: Tensor = decoder.decode(vectors.to(device), seeds=seeds.to(device), **options)
        return values.cpu()

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """(n, slots, content.dim) vectors that the model makes of images (C, H, W)."""
        feeder: Any = self.model.input_embedder.feeders[self._image_modality().name]
        with torch.no_grad():
            made: Tensor = feeder(torch.stack(list(images)).to(device_of(self.model)))
        return made

    def caption(self, *images: Tensor) -> list[Segment]:
        """Asks what images show."""
        return self.prompt(self._with_places(self.phrases.caption, len(images)), images)

    def question(
        self, text: str, images: Sequence[Tensor], examples: Iterable[tuple[Tensor, str, str]] = ()
    ) -> list[Segment]:
        """Asks about images, perhaps behind examples of an image, a question and its answer.

        Images stand where `<image>` does in a question, and those without a place where the phrases have them.

        A model of conversations whose phrases say nothing of questions is asked in turns.
        """
        shown = list(examples)
        if self.in_turns:
            said = [(asked, 1, answer) for _, asked, answer in shown] + [(text, len(images), "")]
            turns = [(self.turns.asked(asked, n), answer) for asked, n, answer in said]
            return self.chat(turns, [*(image for image, _, _ in shown), *images])
        before = [
            self._about(self.phrases.example, asked, 1).format(text=asked, answer=answer) for _, asked, answer in shown
        ]
        asked = self._about(self.phrases.question, text, len(images)).format(text=text)
        return self.prompt(self.phrases.join.join([*before, asked]), [*(image for image, _, _ in shown), *images])

    def drawing(self, text: str) -> list[Segment]:
        """Asks for an image of a text."""
        return self.prompt(self.phrases.draw.format(text=text), draw=True)

    def editing(self, image: Tensor, text: str) -> list[Segment]:
        """Asks for an image like a given one, but as a text says."""
        return self.prompt(self._about(self.phrases.edit, text, 1).format(text=text), [image], draw=True)

    def blending(self, images: Sequence[Tensor], text: str = "") -> list[Segment]:
        """Asks for an image of what several have in common, and perhaps a text.

        Images stand where `<image>` does in the text, and those without a place before it.
        """
        return self.prompt(text, images, draw=True)

    def composing(self, subjects: Sequence[tuple[str, Tensor | None, Tensor | None]], text: str) -> list[Segment]:
        """Asks for an image of given subjects in given places (Emu2, sec. 2.3.3).

        Args:
            subjects: words of `text`, an image of their box (`box_image`), and one of how they look; None: not given.
            text: of all.

        Raises:
            DataError: if words are not in the text, or less often than they are given.
        """
        given = [(words, box is not None, looks is not None) for words, box, looks in subjects]
        written, order = with_places(text, given, self.phrases)
        images = [image for number in order for image in subjects[number][1:] if image is not None]
        return self.prompt(written, images, draw=True)

    def chat(self, turns: Sequence[tuple[str, str]], images: Sequence[Tensor] = ()) -> list[Segment]:
        """Goes on with a conversation.

        Args:
            turns: what the user said and what was answered, which is empty of the last, or how its answer begins.
            images: for the places in what was said, over all turns; those without a place stand before all.

        Raises:
            DataError: if there are more places than images, or there is no turn.
        """
        return self.turns.prompt(turns, [_array(image) for image in images])

    def box_image(self, box: Sequence[float]) -> Tensor:
        """(C, H, W) a place as an image: a white rectangle on black, as the model reads it (Emu2, sec. 2.3.3).

        Args:
            box: left, top, right, bottom as shares of width and height.

        Raises:
            DataError: if it is no box.
        """
        drawn = torch.from_numpy(box_image(check_box(box), self._image_modality().image_size)).permute(2, 0, 1)
        return self.images(drawn[None, : self._image_modality().channels].float() / 255)[0]

    def _about(self, phrase: str, text: str, num_images: int) -> str:
        """A phrase with places for those images that have none in the text it is filled with."""
        missing = num_images - text.count(IMAGE)
        return self._with_places(phrase, missing) if missing > 0 else phrase.replace(IMAGE, "").strip()

    def _with_places(self, phrase: str, num_images: int) -> str:
        """A phrase that is about one image, with the places of several."""
        return phrase.replace(IMAGE, self.turns.said(IMAGE, num_images - 1), 1)

    def _image_modality(self) -> Any:
        if self.image is None:
            raise ConfigError("this model reads text alone: leave images out")
        return self.image

    def _words(self, ids: Sequence[int]) -> Segment:
        return Segment(self.row.text, np.array(ids, np.int64))

    def _text(self, row: Sequence[Segment]) -> Iterable[str]:
        return (self.tokenizer.decode(segment.value) for segment in row if segment.modality == self.row.text)


def _image_seed(seed: int, number: int) -> int:
    return torch_seed(seed, "image", number) if number else seed


def _array(image: Tensor | np.ndarray) -> np.ndarray:
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else image
