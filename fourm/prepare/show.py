"""`fourm prepare show`: a page with the sources of a data set, what was rejected, and aligned samples as pictures."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fourm.data.decode import decode
from fourm.data.index import ShardIndex, load_index, read_header
from fourm.data.shards import CROPS
from fourm.data.transforms import is_image
from fourm.errors import DataError
from fourm.modality import Modality
from fourm.prepare.photos.record import REJECTED
from fourm.prepare.samples import VECTORS, View, photograph_picture, show_value
from fourm.prepare.sources import StoredSource, as_size, find_data_sets, photograph
from fourm.report.html import Cell, Page
from fourm.report.legend import class_names, num_void
from fourm.report.scale import scale_of

_CHANGING = re.compile(r"(?<!\w)b?'[^']*'|(?<!\w)b?\"[^\"]*\"|[^\s'\"]*[/\\.]\w[^\s'\":,;]*|-?\d[\d,.]*(?:e[+-]?\d+)?")
"""Parts of a reason that differ from file to file: what is quoted, names of files, and numbers."""


@dataclass(frozen=True)
class _Place:
    """Where a sample is."""

    tar: str
    key: str


def show(out: Path, page: Path, *, num: int = 12) -> Path:
    """Write a page about the data below a folder. The same data gives the same page.

    Args:
        out: a data set, or a folder of several.
        page: the HTML file.
        num: samples of each data set to show.

    Returns:
        the file.

    Raises:
        DataError: if there is no data, or the page cannot be written.
    """
    result = Page(f"Data in {out.name or out}")
    for name, sources in find_data_sets(out).items():
        result.section(_title("Sources", name))
        _add_sources(result, sources)
        _add_rejected(result, out / name / REJECTED, _title("Rejected", name))
        result.section(_title("Samples", name))
        _add_samples(result, sources, num)
    try:
        return result.save(page)
    except OSError as error:
        raise DataError(f"cannot write {page}: {error.strerror or error}; name another file with --out") from error


def _title(what: str, name: str) -> str:
    return f"{what} of {name}" if name else what


def _add_sources(page: Page, sources: Sequence[StoredSource]) -> None:
    """A line for each source."""
    lines = []
    for source in sources:
        headers = [header for tar in source.tars.values() if (header := _header(tar)) is not None]
        extensions = ", ".join(sorted({header.extension for header in headers}))
        missing = max(len(source.expected), len(source.tars)) - len(headers)
        shards = f"{len(headers):,}" + (f" ({missing:,} missing or damaged)" if missing else "")
        samples = sum(header.num_samples for header in headers)
        size = as_size(sum(header.tar_bytes for header in headers))
        lines.append((source.source, _described(source.modality), extensions, f"{samples:,}", shards, size))
    page.table(("source", "modality", "files", "samples", "shards", "size"), lines)


def _header(tar: Path) -> Any:
    try:
        return read_header(tar)
    except DataError:
        return None


def _described(modality: Modality | None) -> str:
    """A modality in a few words."""
    if modality is None:
        return "not known"
    facts = [modality.decode]
    if modality.decode == "tokens" and modality.is_grid:
        facts.append(f"{modality.grid.height} x {modality.grid.width}, vocabulary of {modality.vocab_size:,}")
    elif modality.classes:
        facts.append(f"{len(modality.classes)} classes")
    elif modality.channels is not None:
        facts.append(f"{modality.channels} channel{'s' * (modality.channels != 1)}")
    return f"{modality.name} ({', '.join(facts)})"


def _add_rejected(page: Page, path: Path, title: str) -> None:
    """How many files were left out and why, with an example of each cause."""
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kinds: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            kinds[entry["by"], _cause(entry["file"], entry["reason"])].append(entry)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        page.section(title, f"{path} cannot be read: {error}")
        return
    page.section(title, f"{len(entries):,} files were left out." if entries else "No file was left out.")
    if entries:
        ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
        lines = [(f"{len(of):,}", by, of[0]["reason"], of[0]["file"]) for (by, _), of in ordered]
        page.table(("files", "by", "reason, for instance", "of"), lines)


def _cause(file: str, reason: str) -> str:
    """What files that were left out for the same cause share of their reasons."""
    path = PurePosixPath(file)
    for name in (file, str(path.parent / path.stem), path.name, path.stem):
        # A plain word may be part of the sentence.
        if len(name) > 1 and not name.isalpha():
            reason = reason.replace(name, "*")
    return _CHANGING.sub("*", reason)


def _add_samples(page: Page, sources: Sequence[StoredSource], num: int) -> None:
    """Aligned samples, a column for each source."""
    places = _spread(sources, num)
    if not places:
        page.text("There are no samples that can be read.")
        return
    reader = _Reader()
    # All features of a column share their colours.
    like = {source.source: reader.column(source, places) for source in sources if _has_vectors(source)}
    classes: dict[str, set[int]] = {source.source: set() for source in sources if _is_labels(source)}
    cells = []
    for place in places:
        values = {source.source: reader.decoded(source, place) for source in sources}
        view = _view(sources, values)
        cells.append([_cell(source, values[source.source], view, like.get(source.source, ())) for source in sources])
        for name, present in classes.items():
            if not isinstance(values[name], str):
                present.update(np.unique(values[name]).tolist())
    page.grid(cells, columns=[source.source for source in sources], rows=[place.key for place in places])
    _add_legends(page, sources, classes)


def _view(sources: Sequence[StoredSource], values: dict[str, Any]) -> View:
    first, crops = photograph(sources), values.get(CROPS)
    classes = next((s.modality.classes for s in sources if s.modality is not None and _is_labels(s)), ())
    view = View(crops=None if isinstance(crops, str) else crops, classes=classes)
    if first is None or first.modality is None or isinstance(values[first.source], str):
        return view
    value = values[first.source]
    return replace(view, picture=photograph_picture(value, first.modality), size=value.shape[:2])


def _cell(source: StoredSource, value: Any, view: View, like: Sequence[Any]) -> Cell:
    if source.modality is None or isinstance(value, str):
        return str(value)
    try:
        return show_value(value, source.modality, view, like)
    except DataError as error:
        return str(error)


def _add_legends(page: Page, sources: Sequence[StoredSource], classes: dict[str, set[int]]) -> None:
    """What colours mean: classes of label maps, and values of scales."""
    for source in sources:
        modality = source.modality
        if modality is None:
            continue
        if present := classes.get(source.source):
            void = num_void(modality)
            names = class_names(modality)
            page.text(f"{source.source}:")
            page.legend(names, [i - void for i in sorted(present) if 0 <= i - void < len(names)])
        elif modality.decode == "depth16":
            scale = scale_of(modality)
            page.text(f"{source.source}{', each picture for itself' if scale.ends is None else ''}:")
            page.color_scale(scale)


def _has_vectors(source: StoredSource) -> bool:
    return source.modality is not None and source.modality.decode in VECTORS


def _is_labels(source: StoredSource) -> bool:
    return source.modality is not None and is_image(source.modality) and source.modality.is_discrete


def _spread(sources: Sequence[StoredSource], num: int) -> list[_Place]:
    """Samples at even distances over all shards of the first source that can be read."""
    for source in sources:
        headers = {name: header for name, tar in source.tars.items() if (header := _header(tar)) is not None}
        starts = np.cumsum([0, *(header.num_samples for header in headers.values())])
        total = int(starts[-1])
        count = min(num, total)
        places = []
        for n in ((2 * i + 1) * total // (2 * count) for i in range(count)):
            shard = int(np.searchsorted(starts, n, side="right")) - 1
            name = list(headers)[shard]
            places.append(_Place(name, load_index(source.tars[name]).keys[n - int(starts[shard])]))
        if places:
            return places
    return []


class _Reader:
    """Reads single files of sources that need not be aligned or whole."""

    def __init__(self) -> None:
        self._index = lru_cache(maxsize=64)(load_index)

    def column(self, source: StoredSource, places: Sequence[_Place]) -> list[Any]:
        """The decoded files of a source, but for those that cannot be."""
        values = (self.decoded(source, place) for place in places)
        return [value for value in values if not isinstance(value, str)]

    def decoded(self, source: StoredSource, place: _Place) -> Any:
        """A decoded file. Where there is only something to be said of it, a text."""
        try:
            data = self._read(source, place)
        except DataError as error:
            return str(error)
        if data is None:
            return "missing"
        if source.modality is None:
            return f"{len(data):,} bytes"
        try:
            value = decode(data, source.modality, lambda: f"{source.source}, '{place.key}'")
        except DataError as error:
            return str(error)
        return [value] if isinstance(value, str) else value

    def _read(self, source: StoredSource, place: _Place) -> bytes | None:
        """The bytes of a file; None if there is no such file."""
        tar = source.tars.get(place.tar)
        index: ShardIndex | None = self._index(tar) if tar is not None else None
        if index is None or tar is None or place.key not in index.keys:
            return None
        row = index.keys.index(place.key)
        try:
            with tar.open("rb") as file:
                return os.pread(file.fileno(), int(index.sizes[row]), int(index.offsets[row]))
        except OSError as error:
            raise DataError(f"cannot read {tar}: {error.strerror or error}") from error
