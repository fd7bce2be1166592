"""Texts of many photographs in one table, as Hugging Face's ImageFolder has them in `metadata.csv` or `.jsonl`."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fourm.errors import ConfigError, did_you_mean
from fourm.prepare.checks import without_control
from fourm.prepare.labelers.annotation_configs import TextTableConfig
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.tables import Names

_LONGEST = 2**24
_SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}
"""Of a table, by its ending, the usual one first; where a comma is in numbers, programs write `;` between columns."""


class TextTable:
    """Photographs to JSON: one text, or a list of alternatives.

    Raises:
        ConfigError: if the table cannot be read, or has no such columns.
    """

    def __init__(self, config: TextTableConfig, device: str) -> None:
        self.config = config
        self.path = Path(config.file)
        self._texts: dict[str, list[str]] = {}
        try:
            for file, texts in self._rows():
                found = (without_control(text).strip() for text in texts)
                self._texts.setdefault(file, []).extend(text for text in found if text)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{self.path}: {error}; expected a table in UTF-8") from None
        self._names = Names(self._texts, self.path.name)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [json.dumps(self._text(photo)).encode() for photo in photos]

    def _text(self, photo: Photo) -> str | list[str]:
        name = self._names.find(photo)
        if name is None and self.config.missing == "reject":
            raise self._names.unknown(photo)
        texts = self._texts[name] if name is not None else []
        return texts if len(texts) > 1 else "".join(texts)

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        """Name of a photograph, and its texts, row by row."""
        c, path = self.config, self.path
        ending = path.suffix.lower()
        if ending not in (".csv", ".tsv", ".jsonl"):
            raise ConfigError(f"file is '{c.file}'; expected a table that ends in .csv, .tsv or .jsonl")
        with path.open(encoding="utf-8-sig", newline="") as file:
            wanted = {c.file_column, c.text_column}
            rows = _json_lines(file, path) if ending == ".jsonl" else _separated(file, _SEPARATORS[ending], wanted)
            for number, row in rows:
                for key, column in (("file_column", c.file_column), ("text_column", c.text_column)):
                    if column not in row:
                        raise ConfigError(
                            f"{path}, line {number}: {key} is '{column}', which is no column."
                            f"{did_you_mean(column, [str(name) for name in row if name is not None])}"
                        )
                name, text = row[c.file_column], row[c.text_column]
                texts = text if isinstance(text, list) else [] if text is None else [text]
                if not isinstance(name, str):
                    raise ConfigError(f"{path}, line {number}: {c.file_column} is {name!r:.80}; expected text")
                if not all(isinstance(value, str) for value in texts):
                    raise ConfigError(
                        f"{path}, line {number}: {c.text_column} is {text!r:.80}; expected text, or a list of texts"
                    )
                yield name, texts


def _separated(file: Any, separators: str, wanted: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table, parted by the separator that gives its head the columns wanted, or else the most."""
    csv.field_size_limit(_LONGEST)
    head = file.readline()
    file.seek(0)

    def fit(separator: str) -> tuple[int, int]:
        columns = next(csv.reader([head], delimiter=separator))
        return len({*columns} & {*wanted}), len(columns)

    reader = csv.DictReader(file, delimiter=max(separators, key=fit), strict=True)
    for row in reader:
        yield reader.line_num, row


def _json_lines(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: expected names of columns and values, in braces")
        yield number, row
