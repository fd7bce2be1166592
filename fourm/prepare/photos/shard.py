"""One piece of the input becomes one shard: photographs are decoded, labelled, and written, or rejected."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from fourm.data.index import keys_digest
from fourm.data.shards import ShardWriter, remove_leftovers
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.photos.inputs import Inputs, Item, Piece, may_be_image
from fourm.prepare.photos.labelling import Labelling
from fourm.prepare.photos.load import load
from fourm.prepare.photos.prune import prune
from fourm.prepare.photos.recipe import IMAGE, ORIGIN, ImageConfig, PhotosRecipe
from fourm.prepare.photos.record import (
    OTHER,
    UNLABELLED,
    Record,
    Rejected,
    is_complete,
    load_record,
    remove_record_leftovers,
    save_record,
)


@dataclass(frozen=True)
class ShardTask:
    """One shard to make.

    Args:
        shard: its number.
        piece: of the input.
        new: labels that the data set has not had, or has no more, so that nothing of them was interrupted.
    """

    shard: int
    piece: Piece
    new: frozenset[str] = frozenset()


class ShardMaker:
    """Makes shards of a recipe in one process.

    Args:
        recipe: what to make.
        inputs: where photographs come from.
        number: of this process on its machine; each takes a GPU of its own where there are several.
    """

    def __init__(self, recipe: PhotosRecipe, inputs: Inputs, number: int = 0) -> None:
        self.recipe = recipe
        self.inputs = inputs
        self.out = recipe.output
        self.modalities = recipe.modalities()
        self.labelling = Labelling(recipe, number)

    def __call__(self, task: ShardTask, on_step: Callable[[], None]) -> None:
        """Make what is missing of a shard.

        Args:
            task: which.
            on_step: called after each file of the input.

        Raises:
            ConfigError, CheckpointError, MissingExtraError: if a labeler cannot work at all.
            DataError: if the shard cannot be written.
        """
        record = load_record(self.out, task.shard)
        remove_leftovers(self.out, self.recipe.extensions(), task.shard)
        remove_record_leftovers(self.out, task.shard)
        if record is not None:
            prune(self.out, task.shard, record)
        missing = self._with_users(missing_sources(self.recipe, task.shard, record))
        self.labelling.begin(task.shard)
        if record is None or _starts_anew(record, missing, task.new):
            self._make_all(task, record, on_step)
        elif missing:
            self._add(task, record, missing, on_step)

    def _with_users(self, missing: Sequence[str]) -> list[str]:
        """These folders, and the labels that are made from them, which have to be made again too."""
        found = list(missing)
        for source in self.recipe.order():
            if source not in found and self.recipe.uses([source]).intersection(found):
                found.append(source)
        return found

    def _make_all(self, task: ShardTask, before: Record | None, on_step: Callable[[], None]) -> None:
        """Every source of a shard, from the input."""
        shard, sources = task.shard, self.recipe.extensions()
        # What labels of another recipe rejected stays out, since their tars lack it.
        gone = [entry for entry in (before.rejected if before else ()) if entry.by not in (*UNLABELLED, *sources)]
        rejected = self.labelling.rejected
        rejected += gone
        keys: list[str] = []
        with ShardWriter(self.out, shard, sources) as writer:
            photos = self._photos(self._read(task.piece, on_step), shard, {entry.file for entry in gone})
            for chunk in _chunks(photos, self.recipe.batch_size):
                for photo in self.labelling.label(chunk, self.recipe.order()):
                    writer.write(photo.key, {source: photo.labels[source] for source in sources})
                    keys.append(photo.key)
            self.labelling.check()
            made_for = tuple(dict.fromkeys([*sources, *(before.sources if before else ())]))
            record = Record(len(keys), keys_digest(keys), made_for, _in_order(rejected))
            save_record(self.out, shard, record)
        prune(self.out, shard, record)

    def _read(self, piece: Piece, on_step: Callable[[], None]) -> Iterator[Item]:
        for item in self.inputs.read(piece):
            yield item
            on_step()

    def _photos(self, items: Iterator[Item], shard: int, gone: Collection[str]) -> Iterator[Photo]:
        """The photographs among files, encoded as they are stored; the others are rejected, but for those known."""
        taken: dict[str, str] = {}
        for item in items:
            if item.file in gone:
                taken.setdefault(item.key, item.file)
                continue
            by = "input"
            try:
                if item.reason:
                    raise DataError(item.reason)
                by = "image" if may_be_image(item.file) else OTHER
                if item.key in taken:
                    by = "input" if by == "image" else OTHER
                    raise DataError(
                        f"named like {taken[item.key]} but for the ending, and only one of them can be taken"
                    )
                photo = self._photo(item)
            except DataError as error:
                self.labelling.rejected.append(Rejected(item.file, str(error), by, shard))
            else:
                taken[item.key] = item.file
                yield photo

    def _photo(self, item: Item) -> Photo:
        loaded = load(item.data, item.file, self.recipe.image)
        data = _encode(loaded.image, self.recipe.image)
        origin = replace(loaded.origin, num_bytes=len(item.data), crc32=zlib.crc32(item.data))
        labels = {IMAGE: data, ORIGIN: json.dumps(asdict(origin)).encode()}
        return Photo(item.key, _pixels(data), origin, labels, self.modalities, loaded.alpha, item.beside, item.namesake)

    def _add(self, task: ShardTask, record: Record, missing: Sequence[str], on_step: Callable[[], None]) -> None:
        """Sources that a shard has not yet, from its stored photographs. What cannot be labelled leaves all of them."""
        shard, keys = task.shard, list[str]()
        sources = [source for source in self.recipe.order() if source in missing]
        extensions = {source: self.recipe.extensions()[source] for source in sources}
        with ShardWriter(self.out, shard, extensions) as writer:
            for chunk in _chunks(self._stored(task, sources), self.recipe.batch_size):
                for photo in self.labelling.label(chunk, sources):
                    writer.write(photo.key, {source: photo.labels[source] for source in sources})
                    keys.append(photo.key)
                for _ in chunk:
                    on_step()
            self.labelling.check()
            record = Record(
                len(keys),
                keys_digest(keys),
                (*record.sources, *(source for source in sources if source not in record.sources)),
                _in_order([*record.rejected, *self.labelling.rejected]),
            )
            save_record(self.out, shard, record)
        prune(self.out, shard, record)

    def _stored(self, task: ShardTask, sources: Sequence[str]) -> Iterator[Photo]:
        """The photographs of a shard as it is, with the labels that others are made from."""
        made = [source for source in self.recipe.uses(sources) if source not in sources]
        pattern = f"{self.out}/[{','.join([IMAGE, ORIGIN, *made])}]/shard-{{{task.shard:05d}..{task.shard:05d}}}.tar"
        stored = open_source(pattern, [IMAGE, ORIGIN, *made], "shards")
        labelers = [self.recipe.labels[source] for source in sources]
        items = self.inputs.read(task.piece) if any(labeler.reads_input for labeler in labelers) else None
        alpha = any(labeler.uses_alpha for labeler in labelers)
        for n in range(len(stored)):
            files = stored.read(n)
            facts = json.loads(files[ORIGIN])
            origin = Origin(**{**facts, "notes": tuple(facts["notes"])})
            photo = Photo(stored.key(n), _pixels(files[IMAGE]), origin, files, self.modalities)
            if items is not None:
                item = self._same(origin, items)
                opacity = load(item.data, item.file, self.recipe.image).alpha if alpha else None
                photo = replace(photo, alpha=opacity, beside=item.beside, namesake=item.namesake)
            yield photo

    def _same(self, origin: Origin, items: Iterator[Item]) -> Item:
        """The file that a stored photograph was made from; both are in the same order.

        Raises:
            DataError: if it is not there any more, or has changed.
        """
        item = next((item for item in items if item.file == origin.file), None)
        if item is None or item.reason or (len(item.data), zlib.crc32(item.data)) != (origin.num_bytes, origin.crc32):
            why = "is not there any more" if item is None else item.reason or "has changed since"
            raise DataError(
                f"{self.recipe.input}: {origin.file}, which is in {self.out}, {why}, so that no label that reads it "
                "can be added. Bring it back as it was, or choose another output folder"
            )
        return item


def missing_sources(recipe: PhotosRecipe, shard: int, record: Record | None) -> list[str]:
    """The folders of a recipe that do not hold a shard yet."""
    sources = list(recipe.extensions())
    return sources if record is None else [s for s in sources if not is_complete(recipe.output, s, shard, record)]


def _starts_anew(record: Record, missing: Sequence[str], new: Collection[str]) -> bool:
    """Whether a shard has to be made from the input again.

    The batches that labelers see have to be the same as without an interruption, for the results to be so to the last
    bit. They are not where a label rejected photographs of the shard that was interrupted.
    """
    interrupted = set(missing).intersection(record.sources).difference(new)
    return IMAGE in missing or ORIGIN in missing or (bool(interrupted) and record.labels_failed)


def _chunks(photos: Iterator[Photo], size: int) -> Iterator[list[Photo]]:
    while chunk := list(islice(photos, size)):
        yield chunk


def _in_order(rejected: list[Rejected]) -> tuple[Rejected, ...]:
    return tuple(sorted(rejected, key=lambda entry: (entry.file, entry.by)))


def _encode(image: Image.Image, config: ImageConfig) -> bytes:
    buffer = io.BytesIO()
    if config.format == "jpg":
        image.save(buffer, "JPEG", quality=config.quality, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB") if image.mode != "RGB" else image)
