"""Documents of Fashion-MNIST: captions, questions and few-shot documents about clothes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from fourm.catalog import FASHION_CLASSES
from fourm.data.source import Source
from fourm.errors import DataError
from fourm.prepare.documents.sentences import pick, prompt
from fourm.prepare.documents.tasks import Line, few_shot
from fourm.rng import generator

_QUESTION = "what is this?"
_FEW_SHOT_DOCUMENTS = 5000


class Clothes:
    """Photographs of one split.

    Args:
        source: their captions and labels.
        names: of their images, in the same order.
        seed: of everything that is drawn.

    Raises:
        DataError: if a caption or label is damaged.
    """

    def __init__(self, source: Source, names: list[str], seed: int) -> None:
        self.names, self.seed = names, seed
        self.kinds: list[str] = []
        self.captions: list[list[str]] = []
        for n in range(len(source)):
            stored = source.read(n)
            try:
                self.kinds.append(FASHION_CLASSES[json.loads(stored["label"])])
                self.captions.append([str(caption) for caption in json.loads(stored["caption"])])
            except (ValueError, IndexError, TypeError) as error:
                raise DataError(
                    f"{source.where(n)}: its label or caption cannot be read: {error}. Make it again"
                ) from None

    def rng(self, task: str, n: int) -> np.random.Generator:
        """The randomness of document n of a task."""
        return generator("documents", "fashion", self.seed, task, n)

    def tasks(self) -> Mapping[str, Iterator[Line]]:
        """Task -> its documents."""
        return {
            "captions": self._pairs(),
            "questions": self._questions(),
            "chat": self._chat(),
            "text": ({"text": caption} for captions in self.captions for caption in captions),
            "text_to_image": self._text_to_image(),
            "names": self._few_shot(),
        }

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
