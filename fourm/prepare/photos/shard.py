"""One piece of the input becomes one shard: photographs are decoded, labelled, and written, or rejected."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from fourm.data.index import keys_digest, load_index
from fourm.data.shards import ShardWriter, remove_leftovers, shard_path
from fourm.data.source import open_source
from fourm.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from fourm.machine import choose_device
from fourm.prepare.labelers.base import Labeler, Origin, Photo
from fourm.prepare.photos.inputs import Inputs, Item, Piece
from fourm.prepare.photos.load import load
from fourm.prepare.photos.recipe import IMAGE, ORIGIN, ImageConfig, PhotosRecipe
from fourm.prepare.photos.record import Record, Rejected, is_complete, load_record, remove_record_leftovers, save_record
from fourm.registry import implementation

_LOG = logging.getLogger(__name__)
_FATAL = (ConfigError, CheckpointError, MissingExtraError, MemoryError)


@dataclass(frozen=True)
class ShardTask:
    """One shard to make."""

    shard: int
    piece: Piece


class ShardMaker:
    """Makes shards of a recipe in one process. Labelers are built when the first photograph needs them.

    Args:
        recipe: what to make.
        inputs: where photographs come from.
        number: of this process on its machine; each takes a GPU of its own where there are several.
    """

    def __init__(self, recipe: PhotosRecipe, inputs: Inputs, number: int = 0) -> None:
        self.recipe = recipe
        self.inputs = inputs
        self.number = number
        self.out = recipe.output
        self.modalities = recipe.modalities()
        self._labelers: dict[str, Labeler] = {}

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
        missing = missing_sources(self.recipe, task.shard, record)
        remove_leftovers(self.out, self.recipe.extensions(), task.shard)
        remove_record_leftovers(self.out, task.shard)
        if record is None or _starts_anew(record, missing):
            self._make_all(task, record, on_step)
        elif missing:
            self._add(task, record, missing, on_step)

    def _make_all(self, task: ShardTask, before: Record | None, on_step: Callable[[], None]) -> None:
        """Every source of a shard, from the input."""
        shard, sources = task.shard, self.recipe.extensions()
        # What labels of another recipe rejected stays out, since their tars lack it.
        gone = [entry for entry in (before.rejected if before else ()) if entry.by not in ("input", "image", *sources)]
        rejected = [*gone]
        keys: list[str] = []
        with ShardWriter(self.out, shard, sources) as writer:
            skip = {entry.file for entry in gone}
            items = (item for item in self._read(task.piece, on_step) if item.file not in skip)
            for chunk in _chunks(self._photos(items, shard, rejected), self.recipe.batch_size):
                for photo in self._labelled(chunk, self.recipe.order(), shard, rejected):
                    writer.write(photo.key, {source: photo.labels[source] for source in sources})
                    keys.append(photo.key)
            made_for = tuple(dict.fromkeys([*sources, *(before.sources if before else ())]))
            record = Record(len(keys) + len(rejected), len(keys), keys_digest(keys), made_for, _in_order(rejected))
            save_record(self.out, shard, record)

    def _read(self, piece: Piece, on_step: Callable[[], None]) -> Iterator[Item]:
        for item in self.inputs.read(piece):
            yield item
            on_step()

    def _photos(self, items: Iterator[Item], shard: int, rejected: list[Rejected]) -> Iterator[Photo]:
        """The photographs among files, encoded as they are stored; the others are rejected."""
        taken: dict[str, str] = {}
        for item in items:
            try:
                by = "input"
                if item.reason:
                    raise DataError(item.reason)
                if item.key in taken:
                    raise DataError(
                        f"named like {taken[item.key]} but for the ending, and only one of them can be taken"
                    )
                by = "image"
                photo = self._photo(item)
            except DataError as error:
                rejected.append(Rejected(item.file, str(error), by, shard))
            else:
                taken[item.key] = item.file
                yield photo

    def _photo(self, item: Item) -> Photo:
        loaded = load(item.data, item.file, self.recipe.image)
        data = _encode(loaded.image, self.recipe.image)
        labels = {IMAGE: data, ORIGIN: json.dumps(asdict(loaded.origin)).encode()}
        return Photo(
            item.key, _pixels(data), loaded.origin, labels, self.modalities, loaded.alpha, item.beside, item.namesake
        )

    def _add(self, task: ShardTask, record: Record, missing: Sequence[str], on_step: Callable[[], None]) -> None:
        """Sources that a shard has not yet, from its stored photographs. What cannot be labelled leaves all of them."""
        shard, rejected, keys = task.shard, list[Rejected](), list[str]()
        sources = [source for source in self.recipe.order() if source in missing]
        extensions = {source: self.recipe.extensions()[source] for source in sources}
        with ShardWriter(self.out, shard, extensions) as writer:
            for chunk in _chunks(self._stored(task, sources), self.recipe.batch_size):
                for photo in self._labelled(chunk, sources, shard, rejected):
                    writer.write(photo.key, {source: photo.labels[source] for source in sources})
                    keys.append(photo.key)
                for _ in chunk:
                    on_step()
            kept = replace(
                record,
                num_samples=len(keys),
                keys_digest=keys_digest(keys),
                sources=(*record.sources, *(source for source in sources if source not in record.sources)),
                rejected=_in_order([*record.rejected, *rejected]),
            )
            save_record(self.out, shard, kept)
        if rejected:
            self._remove(shard, record, kept, keys)

    def _stored(self, task: ShardTask, sources: Sequence[str]) -> Iterator[Photo]:
        """The photographs of a shard as it is, with the labels that others are made from."""
        made = [source for source in self.recipe.uses(sources) if source not in sources]
        pattern = f"{self.out}/[{','.join([IMAGE, ORIGIN, *made])}]/shard-{{{task.shard:05d}..{task.shard:05d}}}.tar"
        stored = open_source(pattern, [IMAGE, ORIGIN, *made], "shards")
        reads_input = any(self.recipe.labels[source].reads_input for source in sources)
        items = self.inputs.read(task.piece) if reads_input else iter(())
        for n in range(len(stored)):
            files, key = stored.read(n), stored.key(n)
            facts = json.loads(files[ORIGIN])
            origin = Origin(**{**facts, "notes": tuple(facts["notes"])})
            photo = Photo(key, _pixels(files[IMAGE]), origin, files, self.modalities)
            item = next((item for item in items if item.file == origin.file), None)  # both are in the same order
            if item is not None and not item.reason:
                alpha = load(item.data, item.file, self.recipe.image).alpha
                photo = replace(photo, alpha=alpha, beside=item.beside, namesake=item.namesake)
            yield photo

    def _remove(self, shard: int, before: Record, after: Record, keys: Sequence[str]) -> None:
        """Write the other tars of a shard again without the samples that new labels rejected."""
        kept = set(keys)
        for source in before.sources:
            if not is_complete(self.out, source, shard, before) or is_complete(self.out, source, shard, after):
                continue
            tar = shard_path(self.out, source, shard)
            index, content = load_index(tar), tar.read_bytes()
            with ShardWriter(self.out, shard, {source: index.header.extension}) as writer:
                for key, start, size in zip(index.keys, index.offsets.tolist(), index.sizes.tolist()):
                    if key in kept:
                        writer.write(key, {source: content[start : start + size]})

    def _labelled(
        self, photos: list[Photo], sources: Sequence[str], shard: int, rejected: list[Rejected]
    ) -> list[Photo]:
        """The photographs with all these labels; those that one of them cannot be made for are rejected."""
        for source in sources:
            made = self._label(source, photos)
            kept = []
            for photo, answer in zip(photos, made, strict=True):
                if isinstance(answer, Exception):
                    reason = f"label '{source}' cannot be made: {str(answer) or type(answer).__name__}"
                    rejected.append(Rejected(photo.origin.file, reason, source, shard))
                else:
                    kept.append(replace(photo, labels={**photo.labels, source: answer}))
            photos = kept
        return photos

    def _label(self, source: str, photos: list[Photo]) -> list[bytes | Exception]:
        """A file for each photograph, or why there is none."""
        if not photos:
            return []
        if source not in self._labelers:
            config = self.recipe.labels[source].located(self.recipe.input)
            device = str(choose_device(self.recipe.device, self.number)) if config.network else "cpu"
            self._labelers[source] = implementation(config.target)(config, device)
        try:
            return [*self._labelers[source].label(photos)]
        except _FATAL:
            raise
        except Exception as error:
            if len(photos) > 1:
                return [self._label(source, [photo])[0] for photo in photos]
            if type(error).__name__ == "OutOfMemoryError":  # torch's, for the memory of GPUs
                raise ConfigError(f"labels.{source}: not enough memory for one photograph: {error}") from None
            _LOG.debug("label %s of %s", source, photos[0].origin.file, exc_info=True)
            return [error]


def missing_sources(recipe: PhotosRecipe, shard: int, record: Record | None) -> list[str]:
    """The folders of a recipe that do not hold a shard yet."""
    sources = list(recipe.extensions())
    return sources if record is None else [s for s in sources if not is_complete(recipe.output, s, shard, record)]


def _starts_anew(record: Record, missing: Sequence[str]) -> bool:
    """Whether a shard has to be made from the input again.

    The batches that labelers see have to be the same as without an interruption, for the results to be so to the last
    bit. They are not where a label rejected photographs of the shard that was interrupted.
    """
    interrupted = bool(set(missing).intersection(record.sources))
    return IMAGE in missing or ORIGIN in missing or (interrupted and record.labels_failed)


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
