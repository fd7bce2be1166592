"""Which files a data path means: a folder of sources, or a pattern with brackets (sources) and braces (ranges)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fourm.data.shards import num_shards, shard_path
from fourm.errors import DataError, did_you_mean

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_pattern(path: str) -> bool:
    """Whether `path` has brackets or braces, as in `data/[rgb,depth]/shard-{00000..00009}.tar`."""
    return bool(_BRACKETS.search(path) or _RANGE.search(path))


def expand_braces(pattern: str) -> Iterator[str]:
    """`a-{08..10}.tar` -> `a-08.tar`, `a-09.tar`, `a-10.tar`; the width of the first number is kept."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from expand_braces(pattern[: match.start()] + str(number).zfill(len(first)) + pattern[match.end() :])


def split_pattern(path: str) -> tuple[str, list[str]] | None:
    """Root and names of the shards of a pattern `ROOT/[rgb,depth]/shard-{00000..00009}.tar`; None for a folder.

    Raises:
        DataError: if it has another form.
    """
    if not is_pattern(path):
        return None
    match = re.fullmatch(r"([^\[\]{}]+)/\[[^\[\]]*\]/([^/]+)", path)
    if match is None:
        raise DataError(
            f"data path {path}: at URLs, a pattern has the form ROOT/[source,...]/shard-{{00000..00009}}.tar"
        )
    return match[1], list(expand_braces(match[2]))


def some_shards(path: str, sources: Iterable[str], first: int, last: int) -> str:
    """The pattern of a part of the shards in a folder.

    Args:
        path: the folder.
        sources: its folders that are needed.
        first, last: numbers of the shards at both ends.

    Raises:
        DataError: if the path is a pattern already.
    """
    if is_pattern(path):
        raise DataError(f"data path {path} names its shards already: give the folder alone, or leave out `shards`")
    return f"{path}/[{','.join(sources)}]/shard-{{{first:05d}..{last:05d}}}.tar"


def find_tars(path: str, sources: Iterable[str]) -> dict[str, list[Path]]:
    """The tars of each source, in order.

    Args:
        path: a folder that holds `<source>/shard-*.tar` (or `<source>/*.tar`), or a pattern in 4M's notation
            `prefix/[rgb,depth,crop_settings]/shard-{00000..09999}.tar`.
        sources: folders that are needed.

    Raises:
        DataError: if the path is remote, or a source is missing, has no tars, or not all that its facts say.
    """
    if path.startswith("pipe:"):
        raise DataError(f"data path {path} is a stream, in which no sample can be found: give the folder, or its URL")
    if not is_pattern(path):
        return {source: _tars_in(Path(path), source) for source in sources}
    found = {}
    for source in sources:
        match = _BRACKETS.search(path)
        if match is None:
            raise DataError(
                f"data path {path} has a range but no [sources]; write prefix/[{source},...]/shard-{{00000..00009}}.tar"
            )
        known = [name.strip() for name in match[1].split(",")]
        if source not in known:
            raise DataError(
                f"data path {path} does not list '{source}' between its brackets.{did_you_mean(source, known)}"
            )
        found[source] = [Path(p) for p in expand_braces(path[: match.start()] + source + path[match.end() :])]
    return found


def facts_folder(path: str, source: str) -> tuple[Path, str]:
    """Root and folder that hold the facts (`source.json`) of a source, for a folder or a pattern."""
    match = _BRACKETS.search(path)
    if match is None:
        return Path(path), source
    folder = Path(path[: match.start()] + source + path[match.end() :]).parent
    return folder.parent, folder.name


def _tars_in(root: Path, source: str) -> list[Path]:
    folder = source_folder(root, source)
    tars = list_tars(folder)
    said = num_shards(root, source)
    missing = sorted({shard_path(root, source, shard) for shard in range(said)}.difference(tars))
    if missing:
        raise DataError(
            f"{folder} is not complete: {missing[0].name} is missing, {len(missing)} of {said} shards in all. "
            "What made it was interrupted, or a file was lost: run the same command again, it makes the missing ones. "
            "To use a part, give a range (prefix/[source]/shard-{00000..00009}.tar)"
        )
    if not tars:
        raise DataError(
            f"{folder} has no shards (shard-00000.tar, ...). Make them, or leave this modality out of the recipe"
        )
    return tars


def list_tars(folder: Path) -> list[Path]:
    """The shards in the folder of a source, in order."""
    tars = [*folder.glob("shard-*.tar")] or [p for p in folder.glob("*.tar") if not p.name.startswith(".")]
    return sorted(tars, key=lambda path: natural(path.name))


def source_folder(root: Path, source: str) -> Path:
    """The folder of a source.

    Raises:
        DataError: if it does not exist; the message lists what is there.
    """
    if not root.is_dir():
        raise DataError(
            f"data folder {root} does not exist. Check data.*.path; it is relative to where the command runs"
        )
    if not (root / source).is_dir():
        there = [p.name for p in root.iterdir() if p.is_dir()]
        raise DataError(
            f"data folder {root} has no '{source}'.{did_you_mean(source, there)} "
            "Make this source, list only the modalities that are there under `modalities:`, or rename with "
            "`modality_name_map:`"
        )
    return root / source


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that takes numbers as numbers: shard-99999 comes before shard-100000."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
