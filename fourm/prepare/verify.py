"""`fourm prepare verify`: read every file of a data set once and name each that is missing, damaged or out of place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourm.data.files import publish
from fourm.data.index import ShardIndex
from fourm.data.shards import CROPS
from fourm.prepare.photos.recipe import IMAGE, ORIGIN
from fourm.prepare.photos.record import FOLDER, Record, load_record
from fourm.prepare.progress import progress_bar
from fourm.prepare.sources import StoredSource, as_size, find_data_sets, photograph
from fourm.prepare.tar_check import Counts, Problem, Samples, compare_keys, read_files, scan
from fourm.workers import Work, run_tasks

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Summary:
    """What was found in a source.

    Args:
        name: of the source, within the folder that was verified.
        modality: its name; empty where it is not known.
        decode: how its files were read; empty where they were not.
        num_shards: shards that are there.
        counts: of their files.
        num_problems: of them and of the source itself.
    """

    name: str
    modality: str
    decode: str
    num_shards: int
    counts: Counts
    num_problems: int


@dataclass(frozen=True)
class Verdict:
    """The outcome: no problems means that the data can be used as a whole."""

    problems: tuple[Problem, ...]
    sources: tuple[Summary, ...]

    def save(self, path: Path) -> None:
        """Write the problems, one JSON object per line.

        Raises:
            DataError: if the file cannot be written.
        """
        publish(path, "".join(json.dumps(asdict(problem)) + "\n" for problem in self.problems).encode())


@dataclass(frozen=True)
class ShardTars:
    """The tars of one shard.

    Args:
        place: of the shard among all.
        name: of its tars.
        sources: those that have it.
        record: what it was made of; None where that is not noted.
    """

    place: int
    name: str
    sources: tuple[StoredSource, ...]
    record: Record | None


@dataclass(frozen=True)
class _Found:
    """What was found in the tars of one shard, by source."""

    problems: tuple[Problem, ...]
    counts: Mapping[str, Counts]


def verify(out: Path, *, workers: int = 1, progress: bool = True) -> Verdict:
    """Check the shards below a folder: all there, aligned, unchanged, decodable, and in range.

    Args:
        out: a data set, or a folder of several.
        workers: processes.
        progress: show a progress bar.

    Raises:
        DataError: if there is nothing to verify.
    """
    problems: list[Problem] = []
    summaries: list[Summary] = []
    for name, sources in find_data_sets(out).items():
        found = [*_complete(sources), *_records(out / name, sources)]
        tasks = _tasks(out / name, sources)
        results: dict[int, _Found] = {}

        def keep(task: ShardTars, found: Any, results: dict[int, _Found] = results) -> None:
            results[task.place] = found

        total = sum(len(task.sources) for task in tasks)
        with progress_bar(f"{name} tars".strip(), total, visible=progress) as advance:
            run_tasks(_start, tasks, workers, advance, "verifying process", keep)
        found += [problem for task in tasks for problem in results[task.place].problems]
        if not found and not any(counts.samples for one in results.values() for counts in one.counts.values()):
            found.append(Problem(str(out / name), None, "", "holds no samples"))
        prefix = f"{name}/" if name else ""
        problems += found
        summaries += [_summary(source, prefix, found, results.values()) for source in sources]
    return Verdict(tuple(problems), tuple(summaries))


def _start(number: int) -> Work[ShardTars]:
    """The work of one process."""
    return _check_shard


def _tasks(root: Path, sources: Sequence[StoredSource]) -> list[ShardTars]:
    """A task for every shard that any source has."""
    names = dict.fromkeys(name for source in sources for name in source.tars)
    ordered = sorted(names, key=lambda name: (len(name), name))
    tasks = []
    for place, name in enumerate(ordered):
        number = _number(name)
        there = tuple(replace(s, tars={name: s.tars[name]}) for s in sources if name in s.tars)
        tasks.append(ShardTars(place, name, there, load_record(root, number) if number is not None else None))
    return tasks


def _number(name: str) -> int | None:
    """12 for `shard-00012.tar`; None for other names."""
    digits = name.removeprefix("shard-").removesuffix(".tar")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _complete(sources: Sequence[StoredSource]) -> Iterator[Problem]:
    """What is wrong with sources as a whole, and shards that are missing or too many."""
    everywhere = dict.fromkeys(name for source in sources for name in source.tars)
    for source in sources:
        folder, expected = source.root / source.source, dict.fromkeys(source.expected)
        for fault in source.faults:
            yield Problem(str(folder), None, source.source, fault)
        for name in {**expected, **everywhere}:
            tar = str(folder / name)
            if name not in source.tars:
                why = "its source.json tells of it" if name in expected else "other sources have it"
                yield Problem(
                    tar, None, source.source, f"is missing; {why}. Run the command that makes this source again"
                )
            elif expected and name not in expected:
                reason = f"is more than the {source.num_shards} shards that source.json tells of"
                yield Problem(tar, None, source.source, reason)


def _records(root: Path, sources: Sequence[StoredSource]) -> Iterator[Problem]:
    """Shards that an interrupted `fourm prepare photos` left, which it would make again, and lost photographs."""
    if not (root / FOLDER / "shards").is_dir():
        return
    made: list[tuple[str, ...]] = []
    for name in dict.fromkeys(name for source in sources for name in source.tars):
        number = _number(name)
        record = load_record(root, number) if number is not None else None
        if record is not None:
            made.append(record.sources)
        elif number is not None:
            path = root / FOLDER / "shards" / f"{name.removesuffix('.tar')}.json"
            reason = "the note of what this shard was made of is missing or damaged. Run `fourm prepare photos` again"
            yield Problem(str(path), None, "", reason)
    there = {source.source for source in sources}
    for name in (IMAGE, ORIGIN):  # labels may be removed on purpose
        if name not in there and any(name in sources for sources in made):
            reason = "is gone, but every shard was made with it: run `fourm prepare photos` again"
            yield Problem(str(root / name), None, name, reason)


def _check_shard(task: ShardTars, on_step: Callable[[], None]) -> _Found:
    """Everything about the tars of one shard."""
    problems: list[Problem] = []
    indexes: dict[str, ShardIndex] = {}
    for source in task.sources:
        index, faults = scan(source, task.name)
        problems += faults
        if index is not None:
            indexes[source.source] = index
    problems += _miscounted(task, indexes)
    expected, owner = _expected(indexes, task.record)
    counts: dict[str, Counts] = {}
    known, first = Samples(), photograph(task.sources)
    # Crops come before what has a row for each of them.
    for source in sorted(task.sources, key=lambda s: (s is not first, s.source != CROPS)):
        if source.source in indexes:
            index = indexes[source.source]
            problems += compare_keys(source, task.name, index.keys, expected, owner)
            faults, counts[source.source] = read_files(source, task.name, index, known, source is first)
            problems += faults
        on_step()
    return _Found(tuple(problems), counts)


def _expected(indexes: Mapping[str, ShardIndex], record: Record | None) -> tuple[list[str], str]:
    """The keys that the tars of a shard should have, and what has them.

    They are those the shard was made with, where that is noted and any tar has them; or else those of most sources.
    """
    if not indexes:
        return [], ""
    digests = Counter(index.header.keys_digest for index in indexes.values())
    wanted = digests.most_common(1)[0][0]
    if record is not None and record.keys_digest in digests:
        wanted = record.keys_digest
    owner = next(name for name, index in indexes.items() if index.header.keys_digest == wanted)
    return indexes[owner].keys, f"'{owner}'"


def _miscounted(task: ShardTars, indexes: Mapping[str, ShardIndex]) -> Iterator[Problem]:
    """Tars that do not hold the samples that were noted when they were made, where no other tar does either."""
    record = task.record
    if record is None or record.keys_digest in {index.header.keys_digest for index in indexes.values()}:
        return
    for source in task.sources:
        if source.source in record.sources and source.source in indexes:
            count = indexes[source.source].header.num_samples
            reason = f"it holds {count} samples, not those {record.num_samples} that the shard was made with"
            yield Problem(str(source.tars[task.name]), None, source.source, reason)


def _summary(source: StoredSource, prefix: str, problems: Sequence[Problem], found: Iterable[_Found]) -> Summary:
    modality = source.modality
    counts = sum((result.counts.get(source.source, Counts()) for result in found), Counts())
    return Summary(
        prefix + source.source,
        modality.name if modality is not None else "",
        modality.decode if modality is not None else "",
        len(source.tars),
        counts,
        sum(problem.source == source.source for problem in problems),
    )


def table(verdict: Verdict) -> Table:
    """What was found in each source, as a table on the terminal."""
    from rich import box
    from rich.table import Table

    result = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        caption=_conclusion(verdict),
        caption_justify="left",
    )
    for column in ("source", "decode"):
        result.add_column(column, overflow="fold")
    for column in ("samples", "shards", "size", "checksums", "problems"):
        result.add_column(column, justify="right", no_wrap=True)
    for s in verdict.sources:
        counts = s.counts
        checksums = "none" if not counts.checksums else "all" if counts.checksums == counts.samples else "some"
        numbers = [f"{counts.samples:,}", f"{s.num_shards:,}", as_size(counts.num_bytes), checksums]
        result.add_row(s.name, s.decode or "unknown", *numbers, f"{s.num_problems:,}")
    return result


def _conclusion(verdict: Verdict) -> str:
    """What is to be said below the table."""
    samples = sum(source.counts.samples for source in verdict.sources)
    bad = len(verdict.problems)
    lines = [f"{bad:,} problem{'s' * (bad != 1)} in {samples:,} files" if bad else f"all {samples:,} files are good"]
    guessed = [f"{s.name} as {s.modality}" for s in verdict.sources if s.decode and s.modality != s.name.split("/")[-1]]
    if guessed:
        lines.append(f"read by the catalog: {', '.join(guessed)}")
    if unknown := [source.name for source in verdict.sources if not source.decode]:
        lines.append(f"only alignment and checksums of {', '.join(unknown)}: their modality is not known")
    return "\n".join(lines)
