"""Photographs in the rows of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fourm.data.cells import cell, check_columns, content, image_column
from fourm.data.tables import Damaged, Table
from fourm.errors import ConfigError, DataError
from fourm.prepare.photos.inputs import Item, Piece
from fourm.prepare.photos.names import column_of, safe_key

_KEY = "__key__"  # of webdataset


class RowInputs:
    """The rows of a data set. Each of its files becomes one shard, or so many rows where it has no files.

    Args:
        name: see `Table`.
        templates: what labelers read, as `{column:NAME}`.
        column: the one with photographs; empty: the only one with images.
        shard_size: rows per piece, where the data set has no files.

    Raises:
        ConfigError: for templates of files.
        MissingExtraError: if `datasets` is not installed.
    """

    def __init__(self, name: str, templates: Sequence[str], column: str, shard_size: int) -> None:
        self.columns: dict[str, str] = {}
        for template in templates:
            path = column_of(template)
            if path is None:
                raise ConfigError(
                    f"file is '{template}', but {name} is a data set, which has columns, not files: write "
                    "'{column:NAME}'"
                )
            self.columns[template] = path
        self.table = Table(name)
        self.column = column
        self.shard_size = shard_size

    def size(self, piece: Piece) -> int | None:
        return self.table.size(piece)

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        found = self.table.parts(known, self.shard_size)
        if not found:
            raise DataError(f"{self.table.name} holds no rows")
        yield from found

    def read(self, piece: Piece) -> Iterator[Item]:
        label = self.table.label(piece)
        count = 0
        try:
            for number, row, features in self._rows(piece):
                name = f"{label}/{number:06d}"
                key = safe_key(row.get(_KEY) or name)
                try:
                    found = {
                        template: content(cell(row, path), cell(features, path))
                        for template, path in self.columns.items()
                    }
                    data = content(row[self._image(features)])
                except OSError as error:
                    yield Item(name, key, reason=f"cannot be read: {error}")
                    continue
                labels = {template: value for template, value in found.items() if value is not None}
                yield Item(name, key, data or b"", labels)
                count += 1
        except Damaged as error:
            yield Item(label, safe_key(label), reason=f"{error}; {count} rows before that were taken")

    def _rows(self, piece: Piece) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        """Number, values and types of the rows, of the columns that are needed."""
        features = self.table.features(piece)
        paths = [self._image(features), *self.columns.values(), *([_KEY] if _KEY in features else [])]
        for number, row in self.table.rows(piece, check_columns(paths, features, self.table.name)):
            yield number, row, features

    def _image(self, features: dict[str, Any]) -> str:
        return image_column(features, self.column, self.table.name)
