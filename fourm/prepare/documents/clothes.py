"""Documents of Fashion-MNIST: captions, questions, places and few-shot documents about clothes."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm.catalog import FASHION_CLASSES
from fourm.data.source import Source
from fourm.errors import DataError
from fourm.prepare.documents import pictures
from fourm.prepare.documents.sentences import pick, prompt
from fourm.prepare.documents.tasks import Album, Line, few_shot
from fourm.rng import generator

_QUESTION = "what is this?"
_FEW_SHOT_DOCUMENTS = 5000


class Clothes:
    """Photographs of one split.

    Args:
        source: their photographs, silhouettes, captions and labels.
        names: of their images, in the same order.
        out: folder of the documents.
        seed: of everything that is drawn.

    Raises:
        DataError: if a caption or label is damaged.
    """

    def __init__(self, source: Source, names: list[str], out: Path, seed: int) -> None:
        self.source, self.names, self.out, self.seed = source, names, out, seed
        self.kinds: list[str] = []
        self.captions: list[list[str]] = []
        for n in range(len(source)):
            try:
                self.kinds.append(FASHION_CLASSES[json.loads(source.read_file(n, "label"))])
                self.captions.append([str(caption) for caption in json.loads(source.read_file(n, "caption"))])
            except (ValueError, IndexError, TypeError) as error:
                raise DataError(
                    f"{source.where(n)}: its label or caption cannot be read: {error}. Make it again"
                ) from None

    def rng(self, task: str, n: int) -> np.random.Generator:
        """The randomness of document n of a task."""
        return generator("documents", "fashion", self.seed, task, n)

    def tasks(self) -> Mapping[str, tuple[Iterator[Line], Album]]:
        """Task -> its documents, and the pictures that they make."""
        plain = {
            "captions": self._pairs(),
            "questions": self._questions(),
            "chat": self._chat(),
            "text": ({"text": caption} for captions in self.captions for caption in captions),
            "text_to_image": self._text_to_image(),
            "names": self._few_shot(),
        }
        placed: dict[str, Callable[[Album], Iterator[Line]]] = {
            "boxes": self._boxes,
            "subjects": self._subjects,
            "cut_outs": partial(self._subjects, cut_out=True),
        }
        albums = {name: Album(self.out, name) for name in (*plain, *placed)}
        return {name: (plain.get(name) or placed[name](album), album) for name, album in albums.items()}

    def _pairs(self) -> Iterator[Line]:
        for name, captions in zip(self.names, self.captions):
            yield {"image": name, "caption": captions}

    def _questions(self) -> Iterator[Line]:
        for name, kind in zip(self.names, self.kinds):
            parts = [
                {"image": name, "asked": False},
                {"text": prompt(_QUESTION), "asked": False},
                {"text": kind, "asked": True},
            ]
            yield {"parts": parts, "kind": "class", "question": _QUESTION, "answer": kind}

    def _chat(self) -> Iterator[Line]:
        for n, (name, kind) in enumerate(zip(self.names, self.kinds)):
            rng = self.rng("chat", n)
            said = (_QUESTION, kind) if rng.random() < 0.5 else ("describe the photo.", pick(rng, self.captions[n]))
            turns = [{"from": "human", "value": f"<image>{said[0]}"}, {"from": "gpt", "value": said[1]}]
            yield {"image": name, "conversations": turns}

    def _text_to_image(self) -> Iterator[Line]:
        for name, captions in zip(self.names, self.captions):
            yield {"parts": [{"text": captions, "asked": False}, {"image": name}]}

    def _boxes(self, album: Album) -> Iterator[Line]:
        """A caption, behind its piece where that is, drawn as a picture, and the photograph (Emu2-Gen)."""
        for n, box in self._places():
            shown = [album.add(pictures.drawn_box(box, min(self._image(n, "silhouette").size)))]
            yield self._composed(n, self.rng("boxes", n), shown)

    def _subjects(self, album: Album, cut_out: bool = False) -> Iterator[Line]:
        """A caption, behind its piece how that looks, half of them behind its place, and the photograph (Emu2-Gen).

        Cut out, what is around the piece is transparent.
        """
        for n, box in self._places():
            rng, photograph = self.rng("subjects", n), self._image(n, "image")
            shown = [album.add(pictures.drawn_box(box, min(photograph.size)))] if rng.random() < 0.5 else []
            mask = self._image(n, "silhouette") if cut_out else None
            shown.append(album.add(pictures.enlarged(photograph, box, mask)))
            yield self._composed(n, rng, shown)

    def _places(self) -> Iterator[tuple[int, pictures.Box]]:
        """The photographs that show something, and where."""
        for n in range(len(self.names)):
            if (box := pictures.box_of(self._image(n, "silhouette"))) is not None:
                yield n, box

    def _composed(self, n: int, rng: np.random.Generator, shown: Sequence[str]) -> Line:
        before, kind, after = pick(rng, self.captions[n]).partition(self.kinds[n])
        parts: list[Any] = [{"text": before + kind, "asked": False}]
        parts += [{"image": name, "asked": False} for name in shown]
        parts += [{"text": after, "asked": False}] if after else []
        return {"parts": [*parts, {"image": self.names[n]}]}

    def _image(self, n: int, name: str) -> Image.Image:
        try:
            picture = Image.open(io.BytesIO(self.source.read_file(n, name)))
            picture.load()
        except OSError as error:
            raise DataError(f"{self.source.where(n, name)} cannot be read: {error}. Make it again") from None
        return picture

    def _few_shot(self) -> Iterator[Line]:
        shown: defaultdict[str, list[str]] = defaultdict(list)
        for name, kind in zip(self.names, self.kinds):
            shown[kind].append(name)
        yield from few_shot(shown, min(_FEW_SHOT_DOCUMENTS, len(self.names)), self.rng)


def image_names(source: Source, folder: str) -> list[str]:
    """The names of copied images, in the order of their samples."""
    sizes = enumerate(source.shard_sizes)
    places = [f"images/{folder}/shard-{shard:05d}.tar" for shard, size in sizes for _ in range(size)]
    return [f"{place}/{source.key(n)}.png" for n, place in enumerate(places)]
