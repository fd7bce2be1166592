"""Data sets of the Hugging Face Hub, Parquet files and saved `datasets` folders: rows in order, column by column.

No code of a data set is run: `datasets` 4 and later have no such thing.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fourm.data.cells import check_columns
from fourm.data.paths import expand_braces, natural
from fourm.data.remote import attempt, filesystem, is_url
from fourm.errors import DataError, FourmError, MissingExtraError, did_you_mean

Part = dict[str, Any]
"""Some rows of a table, in plain values: a file, a shard of a split, or a range."""

_PREFIX = "hf:"
_SAVED = ("dataset_info.json", "dataset_dict.json")
_PARQUET = ".parquet"
_END = object()


class Damaged(DataError):
    """A part of a table is missing or damaged, which trying again does not mend."""


def is_table(name: str) -> bool:
    """Whether a name means a table: `hf:NAME`, Parquet files, or a folder that `save_to_disk` wrote."""
    if name.startswith(_PREFIX) and not is_url(name):
        return True
    return name.lower().endswith(_PARQUET) or any(Path(name, file).is_file() for file in _SAVED)


class Table:
    """Rows of columns.

    Args:
        name: `hf:NAME[:CONFIG][:SPLIT]` of the Hub; Parquet files as a path or URL, with ranges `{0..9}` or wildcards;
            or a folder that `save_to_disk` wrote.

    Raises:
        MissingExtraError: if `datasets` is not installed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.datasets = _library()

    def parts(self, known: Sequence[Part] = (), rows: int = 1000) -> list[Part]:
        """All parts in order.

        Args:
            known: those of an earlier time, which come first as they are.
            rows: in each part of a saved folder; elsewhere a part is what the data set has as one file.

        Raises:
            DataError: if there is no such data set, config or split.
        """
        if self.name.startswith(_PREFIX):
            return [*known] or self._hub_parts()
        if self.name.lower().endswith(_PARQUET):
            files = [{"parquet": file} for file in _files(self.name)]
            return [*known, *(file for file in files if file not in known)]
        start, end = (known[-1]["stop"] if known else 0), len(self._saved())
        starts = range(start, end, rows)
        return [*known, *({"start": first, "stop": min(first + rows, end)} for first in starts)]

    def size(self, part: Part) -> int | None:
        """Rows of a part, where that is known without reading it."""
        return part["stop"] - part["start"] if "stop" in part else None

    def label(self, part: Part) -> str:
        """A short name of a part."""
        if "parquet" in part:
            return str(part["parquet"]).rpartition("/")[2].removesuffix(_PARQUET)
        return f"{part['split']}-{part['shard']:05d}" if "shard" in part else Path(self.name).name

    def features(self, part: Part) -> dict[str, Any]:
        """Column -> its type.

        Raises:
            Damaged: if the part cannot be read.
            DataError: if the network fails.
        """
        return dict(_features(self._open(part)))

    def rows(self, part: Part, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and values of rows, images as the bytes they are stored in.

        Raises:
            Damaged: if the rest of the part cannot be read.
            DataError: if the network fails.
        """
        number = int(part.get("start", 0))
        stream: Iterator[dict[str, Any]] | None = None

        def step() -> Any:
            nonlocal stream
            try:
                if stream is None:
                    stream = iter(self._plain(self._open(part), columns).skip(number - part.get("start", 0)))
                return next(stream, _END)
            except Exception:
                stream = None
                raise

        while (row := self._try(step, part)) is not _END:
            yield number, row
            number += 1

    def texts(self, column: str) -> Iterator[str]:
        """All texts of a column; of a column of lists, each of them.

        Raises:
            DataError: if there is no such column, or it holds no text.
        """
        for part in self.parts():
            check_columns([column], self.features(part), self.name)
            for number, row in self.rows(part, [column]):
                for text in found if isinstance(found := row[column], list) else [found]:
                    if not isinstance(text, str | None):
                        raise DataError(f"{self.name}, row {number}: column '{column}' holds {text!r}; expected text")
                    if text:
                        yield text

    def _open(self, part: Part) -> Any:
        return self._try(lambda: self._load(part), part)

    def _load(self, part: Part) -> Any:
        if "parquet" in part:
            return self.datasets.load_dataset("parquet", data_files=part["parquet"], split="train", streaming=True)
        if "start" in part:
            return self._saved().select(range(part["start"], part["stop"]))
        place = {"split": part["split"], "revision": part["revision"]}
        found = self.datasets.load_dataset(self._parse()[0], part["config"], streaming=True, **place)
        return found.shard(num_shards=part["num_shards"], index=part["shard"])

    def _plain(self, rows: Any, columns: Sequence[str]) -> Any:
        """Only some columns, and nothing decoded."""
        features = _features(rows)
        rows = rows.select_columns([*columns])
        for column in columns:
            if type(features[column]).__name__ in ("Image", "Audio", "Video", "Pdf"):
                rows = rows.cast_column(column, type(features[column])(decode=False))
        return rows

    def _saved(self) -> Any:
        try:
            found = self.datasets.load_from_disk(self.name)
        except Exception as error:
            raise DataError(f"cannot read {self.name}: {error}. Save the data set again") from None
        if isinstance(found, dict):
            raise DataError(f"{self.name} holds splits: name the folder of one, {self.name}/{next(iter(found))}")
        return found

    def _hub_parts(self) -> list[Part]:
        name, config, split = self._parse()
        library = self.datasets

        def look() -> list[Part]:
            nonlocal config, split
            revision = None if Path(name).is_dir() else _revision(name)
            if config and not split and config not in library.get_dataset_config_names(name, revision=revision):
                config, split = None, config
            splits = library.get_dataset_split_names(name, config, revision=revision)
            if split is None:
                split = splits[0] if len(splits) == 1 else "train"
            if split not in splits:
                raise DataError(f"{self.name}: there is no split '{split}'.{did_you_mean(split, splits)}")
            found = library.load_dataset(name, config, split=split, revision=revision, streaming=True)
            place = {"config": config, "split": split, "revision": revision, "num_shards": found.num_shards}
            return [{**place, "shard": shard} for shard in range(found.num_shards)]

        return list(self._try(look, None))

    def _parse(self) -> tuple[str, str | None, str | None]:
        """Name, config and split; a config alone may be a split."""
        name, *others = self.name.removeprefix(_PREFIX).split(":")
        if not name or len(others) > 2:
            raise DataError(f"input is '{self.name}'; expected hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
        config, split = [*others, "", ""][:2]
        return name, config or None, split or None

    def _try(self, action: Callable[[], Any], part: Part | None) -> Any:
        """Do it, several times where that is over the network."""
        where = self.name if part is None else f"{self.name}, {self.label(part)}"
        is_local = not self.name.startswith(_PREFIX) and not is_url(self.name)

        def once() -> Any:
            try:
                return action()
            except FourmError:
                raise
            except Exception as error:  # of pyarrow, of datasets, or of the operating system
                if is_local or isinstance(error, ValueError | FileNotFoundError | PermissionError):
                    reason = str(error).strip() or type(error).__name__
                    raise Damaged(f"{where}: cannot be read: {reason}") from None
                raise

        return attempt(once, f"read {where}")


def _files(pattern: str) -> list[str]:
    names = [*expand_braces(pattern)]
    found: list[str] = []
    for name in names:
        if not glob.has_magic(name):
            found.append(name)
        elif is_url(name):
            system, path = filesystem(name)
            found += sorted((system.unstrip_protocol(str(file)) for file in system.glob(path)), key=natural)
        else:
            found += sorted(glob.glob(name, recursive=True), key=natural)
    if not found:
        raise DataError(f"there are no files {pattern}; it is relative to where the command runs")
    return found


def _features(rows: Any) -> Any:
    features = rows.features
    return features if features is not None else rows._resolve_features().features


def _revision(name: str) -> str | None:
    """The commit a data set is at, so that a later run reads the same rows."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name).sha


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "datasets", "reading data sets and Parquet files") from None
    datasets.disable_progress_bars()
    return datasets
