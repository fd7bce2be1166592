"""Rows of documents of text and images: row n is a function of the seed, the epoch and n, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np

from fourm.data import decode as decoding
from fourm.data import geometry as geometries
from fourm.data import subjects, transforms
from fourm.data.augment import draw_augmentation
from fourm.data.configs import CacheConfig, DatasetConfig
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_files import Documents, LineDocuments, load_numbers, save_numbers
from fourm.data.interleaved_packing import Packer, Piece, Words
from fourm.data.interleaved_parts import Ids, Image, Vocabulary
from fourm.data.packing import fill, limited
from fourm.errors import ConfigError, DataError
from fourm.modality import Modality, ModalitySet
from fourm.tokens import Document, Segment

_TRIES = 100
TEXT = "text"
"""The tokenizer of the modality that holds the words of documents."""


class InterleavedDocuments:
    """A data set whose samples are rows of documents of text and images.

    Args:
        name: of the data set in the recipe.
        documents: where they come from.
        modalities: one of text, and one of images unless documents hold none.
        vocabulary: the text tokenizer.
        config: with `packing` the rules.

    Raises:
        ConfigError: if there are other modalities, or the vocabulary lacks a special token.
        DataError: if there are no documents, or with `pack` one of them is damaged.
    """

    prefetch = None

    def __init__(
        self,
        name: str,
        documents: Documents,
        modalities: ModalitySet,
        vocabulary: Vocabulary,
        config: DatasetConfig,
    ) -> None:
        self.name, self.documents, self.config = name, documents, config
        self.text, self.image = text_and_image(name, modalities)
        self.rules: InterleavedConfig = config.packing
        self.packer = Packer(self.rules, vocabulary, 0 if self.image is None else self.image.num_tokens)
        self._rows: list[list[list[int]]] | None = None
        units = [-(-size // self.rules.group) for size in documents.sizes]
        if self.rules.pack:
            lengths = (self._lengths(file, size) for file, size in enumerate(documents.sizes))
            self._rows = [fill(self._grouped(found), self.rules) for found in lengths]
            units = [len(rows) for rows in self._rows]
        self.shard_sizes = limited(units, config.max_samples)
        self._starts = np.cumsum([0, *self.shard_sizes])
        if not len(self):
            raise DataError(f"data set '{name}' ({config.path}) is empty: its files hold no documents that fit")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def source(self) -> InterleavedDocuments:
        """What errors are told by."""
        return self

    def check_resolutions(self, resolutions: Sequence[int]) -> None:
        """Images of documents have the size that their modality declares.

        Raises:
            ConfigError: if there are resolutions.
        """
        if resolutions:
            raise ConfigError(f"data set '{self.name}': data.resolutions is for aligned images, not for documents")

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> list[Document]:
        """Row n. Where the rules leave out all its documents, others that are drawn take their place.

        Args:
            n: its number.
            rng: source of all randomness.
            resolution: not used.

        Raises:
            DataError: if a document or image is damaged, or the rules leave out nearly everything.
        """
        for tries in range(_TRIES):
            row = int(rng.integers(len(self))) if tries else n
            packed = self._row(*self._locate(row), rng)
            if packed:
                return [self._document(pieces, rng) for pieces in packed]
        raise DataError(
            f"data set '{self.name}' ({self.config.path}): the rules of packing left out {_TRIES} rows in a row. Check "
            "packing.num_tokens, min_images and min_similarity"
        )

    def where(self, n: int, source: str | None = None) -> str:
        """The first document of row n, for errors."""
        file, row = self._locate(n)
        return self.documents.where(file, self._units(file, row)[0] * self.rules.group)

    def _locate(self, n: int) -> tuple[int, int]:
        if not 0 <= n < len(self):
            raise IndexError(f"row {n} of {len(self)} in {self.config.path}")
        file = int(np.searchsorted(self._starts, n, side="right")) - 1
        return file, n - int(self._starts[file])

    def _units(self, file: int, row: int) -> list[int]:
        """The documents or groups of a row."""
        return [row] if self._rows is None else self._rows[file][row]

    def _row(self, file: int, row: int, rng: np.random.Generator) -> list[list[Piece]]:
        units, room = self._units(file, row), self.rules.num_tokens
        found: list[list[Piece]] = []
        for place in rng.permutation(len(units)) if self.rules.shuffle and len(units) > 1 else range(len(units)):
            packed = self._unit(file, units[place], rng, room)
            found += packed
            room -= sum(piece.num_tokens for pieces in packed for piece in pieces)
        return found

    def _unit(self, file: int, unit: int, rng: np.random.Generator, room: int) -> list[list[Piece]]:
        """The documents of a group: one behind the other as one, or apart."""
        found: list[list[Piece]] = []
        first = unit * self.rules.group
        for n in range(first, min(first + self.rules.group, self.documents.sizes[file])):
            begins = self.rules.group_apart or not found
            pieces = self.packer.pack(self.documents.read(file, n), rng, room, first=begins)
            if not pieces:
                continue
            if begins:
                found.append([])
            found[-1] += pieces
            room -= sum(piece.num_tokens for piece in pieces)
        return found

    def _document(self, pieces: Iterable[Piece], rng: np.random.Generator) -> list[Segment]:
        """Segments of ids and images; ids that meet and are asked alike are one."""
        flat: list[Words | Image] = []
        for piece in pieces:
            flat += [piece] if isinstance(piece, Words) else [*piece.before, piece.image, *piece.after]
        found: list[Segment] = []
        for kind, run in groupby(flat, key=lambda item: item.asked if isinstance(item, Words) else None):
            if kind is None:
                for image in run:
                    assert isinstance(image, Image)
                    found.append(self._picture(image, rng))
            else:
                ids = [item.ids for item in run if isinstance(item, Words)]
                found.append(Segment(self.text.name, np.concatenate(ids), kind))
        return found

    def _picture(self, image: Image, rng: np.random.Generator) -> Segment:
        """An image (C, H, W) float32, cropped and normalised."""
        config, modality = self.config, self.image
        if modality is None:
            raise DataError(f"{config.path} holds images, but data set '{self.name}' has no modality of images")
        size = modality.image_size
        data = self.documents.image(image)
        pixels = decoding.decode(data, modality, lambda: f"{config.path}, image '{image.name}'")
        if not image.asked and (self.rules.subject_background or self.rules.subject_crop < 1):
            pixels = subjects.vary(data, pixels, self.rules.subject_background, self.rules.subject_crop, rng)
        geometry = geometries.draw(config.crop, config.hflip, rng, pixels.shape[:2], size)
        pixels = transforms.apply(
            pixels, modality, geometry, rng,
            jitter=transforms.Jitter.draw(config.jitter, rng),
            augment=draw_augmentation(config.rand_augment, config.erase, rng),
            size=size,
        )  # fmt: skip
        return Segment(modality.name, pixels, image.asked)

    def _lengths(self, file: int, size: int) -> Ids:
        """(documents,) tokens of each, kept beside the file until it, the rules or the tokenizer change."""
        path = self.documents.lengths_path(file)
        stamp = self.documents.stamp(file)
        facts = [asdict(self.rules), self.packer.vocabulary.hash, self.packer.num_image_tokens, size, stamp]
        digest = np.frombuffer(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()[:16], np.int64)
        known = load_numbers(path) if path is not None else None
        if known is not None and len(known) == size + 2 and (known[:2] == digest).all():
            return known[2:]
        lengths = np.array([self.packer.longest(self.documents.read(file, n)) for n in range(size)], np.int64)
        if path is not None:
            save_numbers(path, np.concatenate([digest, lengths]))
        return lengths

    def _grouped(self, lengths: Ids) -> Ids:
        sums = np.add.reduceat(lengths, np.arange(0, len(lengths), self.rules.group)) if len(lengths) else lengths
        return np.minimum(sums, self.rules.num_tokens)


def text_and_image(name: str, modalities: ModalitySet) -> tuple[Modality, Modality | None]:
    """The modalities of words and of images.

    Raises:
        ConfigError: if there are others, or no words.
    """
    text = [m for m in modalities.values() if m.tokenizer == TEXT and m.is_discrete]
    images = [m for m in modalities.values() if transforms.is_image(m) and not m.is_discrete]
    if len(text) != 1 or len(images) > 1 or len(text) + len(images) != len(modalities):
        raise ConfigError(
            f"data set '{name}' holds documents of text and images, but its modalities are {', '.join(modalities)}; "
            "expected one whose tokenizer is text, and at most one of images: name them under modalities"
        )
    return text[0], images[0] if images else None


def build_interleaved(
    name: str,
    config: DatasetConfig,
    modalities: ModalitySet,
    encoders: Mapping[str, Any],
    folders: Mapping[str, str],
    cache: CacheConfig | None = None,
) -> InterleavedDocuments:
    """Open documents as a recipe describes them.

    Args:
        name: of the data set.
        config: its description.
        modalities: those that it has.
        encoders: modality -> what makes ids of its text, with its `tokenizer`.
        folders: modality -> folder, in aligned data.
        cache: of aligned shards at URLs.

    Raises:
        ConfigError: if the modalities do not fit, or there is no text tokenizer.
        DataError: if the data is missing or damaged.
    """
    text, image = text_and_image(name, modalities)
    if text.name not in encoders:
        raise ConfigError(f"data set '{name}' holds documents of text: set tokenizers.text to a text tokenizer")
    documents: Documents
    if config.packing.reader == "aligned":
        from fourm.data.interleaved_files import AlignedDocuments
        from fourm.data.source import open_source

        if image is None:
            raise ConfigError(f"data set '{name}': packing.reader aligned needs an image among its modalities")
        sources = [folders[image.name], folders[text.name]]
        documents = AlignedDocuments(
            open_source(config.path, sources, config.format, cache), sources[0], text, sources[1]
        )
    else:
        documents = LineDocuments(config.path, config.packing)
    return InterleavedDocuments(name, documents, modalities, encoders[text.name].tokenizer, config)
