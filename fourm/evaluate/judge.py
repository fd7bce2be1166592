"""Which words are true of a picture: by its own captions where it is real, by a classifier where it is painted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_files import LineDocuments
from fourm.data.interleaved_parts import Image, Text
from fourm.errors import DataError
from fourm.evaluate.caption_configs import ClassifierConfig
from fourm.evaluate.classifier import Classifier, classify, load_or_train
from fourm.generate.reading import read_image
from fourm.modality import Modality
from fourm.tokenizers.units import to_natural
from fourm.words import names_in


@dataclass
class Pairs:
    """Pictures with their captions.

    Args:
        images: (N, C, H, W) in [0, 1].
        captions: of each picture, those that name a word first.
        there: (N, W) bool, which words its captions name.
    """

    images: Tensor
    captions: list[list[str]]
    there: Tensor

    @property
    def exclusive(self) -> bool:
        """Whether one word is true of every picture, and no more."""
        return bool((self.there.sum(1) == 1).all())


def read_pairs(path: Path, modality: Modality, words: Sequence[str], limit: int | None = None) -> Pairs:
    """Pictures and captions of a file of pairs.

    Args:
        path: of lines with `image` and `caption`.
        modality: how pictures are read.
        words: that are looked for.
        limit: of pairs, the first ones; None: all.

    Raises:
        DataError: if it cannot be read, or no caption names a word.
    """
    from rich.progress import track

    lines = LineDocuments(str(path), InterleavedConfig(reader="pairs"))
    places = [(file, n) for file, size in enumerate(lines.sizes) for n in range(size)][:limit]
    images, captions = [], []
    for file, n in track(places, "pictures", transient=True):
        parts = lines.read(file, n)
        shown = next(part for part in parts if isinstance(part, Image))
        told = [text for part in parts if isinstance(part, Text) for text in _alternatives(part)]
        images.append(read_image(lines.image(shown), modality, lines.where(file, n))[0])
        captions.append(sorted(told, key=lambda text: not names_in(text, words)))
    there = named([" . ".join(texts) for texts in captions], words)
    if not there.any():
        raise DataError(f"no caption in {path} names any of {', '.join(words)}: correct words, or name another file")
    return Pairs(to_natural(torch.cat(images), modality), captions, there)


def named(texts: Sequence[str], words: Sequence[str]) -> Tensor:
    """(N, W) bool, which words each text names."""
    found = [set(names_in(text, words)) for text in texts]
    return torch.tensor([[word in names for word in words] for names in found]).reshape(len(texts), len(words))


@dataclass
class Judge:
    """Sees words in pictures.

    Args:
        model: a classifier that was trained on real pictures.
        exclusive: one word is true of every picture, and no more.
        num_words: it knows.
    """

    model: Classifier
    exclusive: bool
    num_words: int

    def seen(self, images: Tensor) -> Tensor:
        """(N, W) bool of (N, C, H, W) in [0, 1]."""
        found = classify(self.model, images, several=not self.exclusive)
        return torch.nn.functional.one_hot(found, self.num_words).bool() if self.exclusive else found


def load_judge(
    folder: Path,
    config: ClassifierConfig,
    words: Sequence[str],
    train: Callable[[], Pairs],
    test: Pairs,
    source: str = "",
) -> Judge:
    """The judge of a folder, trained first if there is none of these settings; see `classifier.load_or_train`.

    Args:
        folder: where it is kept.
        config: its sizes and training.
        words: it sees.
        train: called for real pictures to learn from, only if they are needed.
        test: held-out ones. Where each of them has one word, so have all.
        source: what tells the pictures of `train` from others.
    """

    def data(pairs: Pairs) -> tuple[Tensor, Tensor]:
        if not test.exclusive:
            return pairs.images, pairs.there
        one = pairs.there.sum(1) == 1
        return pairs.images[one], pairs.there[one].long().argmax(1)

    about = f" {','.join(words)} {'one' if test.exclusive else 'several'} {source}"
    model = load_or_train(folder, config, len(words), lambda: data(train()), data(test), about)
    return Judge(model, test.exclusive, len(words))


def _alternatives(part: Text) -> Sequence[str]:
    return (part.text,) if isinstance(part.text, str) else part.text
