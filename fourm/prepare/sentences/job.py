"""`fourm prepare sentences`: pictures of aligned data, their tokens, and the documents that these make."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fourm.config import to_dict
from fourm.data import sentences
from fourm.data.documents import DocumentWriter, meta_path
from fourm.data.sentence_configs import base_view, repeats
from fourm.data.shards import read_source_facts, write_source_facts
from fourm.data.source import Source, open_source
from fourm.data.transforms import AUGMENTED, is_image, to_input
from fourm.errors import ConfigError, DataError
from fourm.machine import choose_device
from fourm.prepare.progress import progress_bar
from fourm.prepare.sentences.pictures import Pictures, Shot
from fourm.prepare.sentences.recipe import SentencesRecipe
from fourm.rng import generator
from fourm.tokenizers.base import load_tokenizer, tokenizer_folder
from fourm.tokenizers.saved import saved_hash

_LOG = logging.getLogger(__name__)


def prepare_sentences(recipe: SentencesRecipe) -> dict[str, int]:
    """Write the documents of every task of a recipe; files that are there are kept.

    Args:
        recipe: what to make.

    Returns:
        task -> how often it comes.

    Raises:
        DataError: if the data is damaged, or the output holds sentences of another recipe.
        ConfigError: if the tokenizer is not for images, a view is not what its filter is for, or `num_rows` of a task
            has no room for a single clip, object or class.
    """
    tokenizer, source, pictures = _opened(recipe)
    writer = _Writer(recipe, tokenizer, source, pictures)
    writer.run()
    return writer.times


def write_pictures(recipe: SentencesRecipe, folder: Path, num: int = 8) -> list[Path]:
    """Draw what sentences are made of, to look at or to prompt with: every view of the first samples.

    Args:
        recipe: whose views.
        folder: for the files ROW_VIEW.png.
        num: samples.

    Returns:
        the files.

    Raises:
        DataError: if the data is damaged, or a file cannot be written.
        ConfigError: if the tokenizer is not for images, or a view is not what its filter is for.
    """
    from PIL import Image

    _, source, pictures = _opened(recipe)
    views = sorted({view for sentence in recipe.sentences.values() for view in sentence.views})
    written = []
    for row in range(min(num, len(source))):
        for shot, pixels in pictures.draw(row, [pictures.shot(row, view, 0) for view in views]).items():
            path = folder / f"{row}_{shot.view.replace(':', '_')}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            except OSError as error:
                raise DataError(f"cannot write {path}: {error}. Free space or choose another folder") from error
            written.append(path)
    return written


def _opened(recipe: SentencesRecipe) -> tuple[Any, Source, Pictures]:
    """Tokenizer, data, and what draws it at the tokenizer's size."""
    tokenizer = load_tokenizer(recipe.tokenizer, choose_device(recipe.device))
    modality = tokenizer.modality
    if modality.decode not in AUGMENTED or modality.teacher is not None or modality.channels not in (1, 3):
        raise ConfigError(
            f"the tokenizer {recipe.tokenizer} encodes '{modality.name}'; expected one of colour or gray images, as "
            "which all views are drawn"
        )
    views = recipe.modalities()
    for view in {view for sentence in recipe.sentences.values() for view in sentence.views}:
        name, last = base_view(view)
        if last == "black" and is_image(views[name]):
            raise ConfigError(f"view '{view}' is an image, which is drawn on nothing; black is for annotations")
    own = [] if recipe.group_by == "folder" or not _needs_groups(recipe) else [recipe.group_by]
    source = open_source(recipe.data, [*(m.source for m in views.values()), *own])
    pictures = Pictures(source, views, modality.grid.image_size, recipe.augment, recipe.seed)
    return tokenizer, source, pictures


def _needs_groups(recipe: SentencesRecipe) -> bool:
    return any(sentence.needs_groups for sentence in recipe.sentences.values())


class _Part(NamedTuple):
    """Samples whose sentences share a file; of kinds that need groups, whole ones."""

    rows: Sequence[int]
    groups: sentences.Groups


class _Writer:
    """Goes through the data, as many samples at a time as share a file."""

    def __init__(self, recipe: SentencesRecipe, tokenizer: Any, source: Source, pictures: Pictures) -> None:
        self.recipe, self.tokenizer, self.source, self.pictures = recipe, tokenizer, source, pictures
        self._groups = self._grouped() if _needs_groups(recipe) else {}
        self.parts = {task: self._parts(task) for task in recipe.sentences}
        images = {
            task: sum(len(s) for number in range(len(parts)) for s in self._built(task, number, 0))
            for task, parts in self.parts.items()
        }
        per_image = tokenizer.grid.num_tokens
        balanced = repeats({task: count * per_image for task, count in images.items()}, recipe.balance)
        self.times = {task: recipe.epochs * count for task, count in balanced.items()}

    def run(self) -> None:
        """Write what is missing."""
        for task in self.recipe.sentences:
            self._write_facts(task)
        with progress_bar("files", sum(map(len, self.parts.values()))) as advance:
            for number in range(max(map(len, self.parts.values()))):
                tasks = [task for task, parts in self.parts.items() if number < len(parts)]
                missing = [task for task in tasks if not self._is_complete(task, number)]
                if missing:
                    self._write(number, missing)
                advance(len(tasks))
        for task, count in self.times.items():
            _LOG.info("%s: %d files, %d times", self.recipe.output / task, len(self.parts[task]), count)

    def _write(self, number: int, tasks: Sequence[str]) -> None:
        documents: dict[str, list[list[Shot]]] = {}
        for task in tasks:
            documents[task] = [
                [self.pictures.shot(frame.row, frame.view, time) for frame in sentence]
                for time in range(self.times[task])
                for sentence in self._built(task, number, time)
            ]
        tokens = self._encode({shot for sentences in documents.values() for one in sentences for shot in one})
        for task, found in documents.items():
            with DocumentWriter(self._path(task, number)) as writer:
                for shots in found:
                    writer.write(np.concatenate([tokens[shot] for shot in shots]))

    def _built(self, task: str, number: int, time: int) -> list[sentences.Sentence]:
        rows, groups = self.parts[task][number]
        rng = generator(self.recipe.seed, task, number, time)
        return sentences.build(self.recipe.sentences[task], rows, groups, rng)

    def _parts(self, task: str) -> list[_Part]:
        config, size, total = self.recipe.sentences[task], self.recipe.rows_per_file, len(self.source)
        num_rows = total if config.num_rows is None else min(config.num_rows, total)
        if not config.needs_groups:
            return [_Part(range(n, max(n, min(n + size, num_rows))), {}) for n in range(0, total, size)]
        parts: list[dict[str, list[int]]] = []
        used = room = 0
        for name, rows in self._groups.items():
            used += len(rows)
            if used > num_rows and not parts:
                raise ConfigError(
                    f"sentences.{task}.num_rows is {num_rows}, but '{name}', the first of {self.source.name}, has "
                    f"{len(rows)} samples, and none is cut: set num_rows to {len(rows)} or more"
                )
            if used > num_rows:
                break
            if not parts or len(rows) > room:
                parts.append({})
                room = size
            parts[-1][name] = rows
            room -= len(rows)
        return [_Part([row for rows in part.values() for row in rows], part) for part in parts]

    def _grouped(self) -> dict[str, list[int]]:
        """All clips, objects or classes, in the order in which the data has them."""
        found: dict[str, list[int]] = {}
        for row in range(len(self.source)):
            found.setdefault(self._group(row), []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: sentences.natural_order(self.source.key(row)))
        return found

    def _group(self, row: int) -> str:
        key, by = self.source.key(row), self.recipe.group_by
        if by == "folder":
            folder, slash, _ = key.rpartition("/")
            if not slash:
                where = self.source.where(row, next(iter(self.pictures.views.values())).source)
                raise DataError(
                    f"{where} lies in no folder, which says what belongs together: put the files of a clip, an object "
                    "or a class into one, or set group_by"
                )
            return folder
        try:
            return str(json.loads(self.source.read(row)[by]))
        except ValueError as error:
            where = self.source.where(row, by)
            raise DataError(f"{where}: cannot read it as JSON: {error}. Make it again, or set group_by") from None

    def _encode(self, shots: set[Shot]) -> dict[Shot, NDArray[np.int32]]:
        """Ids (n,) of every picture, which is drawn and encoded once."""
        found: dict[Shot, NDArray[np.int32]] = {}
        stream = self._drawn(shots)
        modality = self.tokenizer.modality
        device = next(self.tokenizer.parameters()).device
        while batch := list(islice(stream, self.recipe.batch_size)):
            pixels = [image if modality.channels == 3 else _gray(image) for _, image in batch]
            images = torch.from_numpy(np.stack([to_input(image, modality) for image in pixels]))
            ids = self.tokenizer.encode(images.to(device)).flatten(1).cpu().numpy().astype(np.int32)
            found.update(zip((shot for shot, _ in batch), ids))
        return found

    def _drawn(self, shots: set[Shot]) -> Iterator[tuple[Shot, NDArray[np.uint8]]]:
        by_row: dict[int, list[Shot]] = {}
        for shot in sorted(shots):
            by_row.setdefault(shot.row, []).append(shot)
        for row, own in by_row.items():
            yield from self.pictures.draw(row, own).items()

    def _is_complete(self, task: str, number: int) -> bool:
        path = self._path(task, number)
        return path.is_file() and meta_path(path).is_file()

    def _path(self, task: str, number: int) -> Path:
        return self.recipe.output / task / f"part-{number:05d}.bin"

    def _write_facts(self, task: str) -> None:
        """Say what made the documents; others are not mixed with them."""
        facts: Mapping[str, Any] = {
            "tokenizer_hash": saved_hash(tokenizer_folder(self.recipe.tokenizer)),
            "vocab_size": self.tokenizer.vocab_size,
            "tokens_per_image": self.tokenizer.grid.num_tokens,
            "made_from": self._digest(task),
        }
        found = read_source_facts(self.recipe.output, task)
        if found and found != facts:
            raise DataError(
                f"{self.recipe.output / task} holds sentences of another recipe, tokenizer or data. Remove it, or "
                "choose another output"
            )
        write_source_facts(self.recipe.output, task, facts)

    def _digest(self, task: str) -> str:
        own = to_dict(self.recipe)
        kept = {key: own[key] for key in ("data", "views", "group_by", "augment", "rows_per_file", "seed")}
        facts = {**kept, "sentence": own["sentences"][task], "times": self.times[task], "samples": len(self.source)}
        if self.recipe.sentences[task].needs_groups:
            facts["groups"] = [list(part.groups.values()) for part in self.parts[task]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))
