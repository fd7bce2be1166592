"""`fourm prepare documents`: aligned data with exact facts into files of documents, one for each task."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from fourm.data.files import publish, write_error
from fourm.data.index import index_path
from fourm.data.shards import read_source_facts
from fourm.data.source import Source, open_source
from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.files import replacing
from fourm.prepare.documents import facts
from fourm.prepare.documents.clothes import Clothes, image_names
from fourm.prepare.documents.tasks import READERS, TASKS, Album, Line, Scene
from fourm.prepare.progress import progress_bar
from fourm.prepare.rooms.writer import MANIFEST as ROOMS
from fourm.workers import run_tasks

_LOG = logging.getLogger(__name__)
SETTINGS, SUMMARY = "settings.json", "documents.json"
VERSION = 2
"""Documents of another version differ even with the same seed."""


def prepare_documents(
    data: Path, out: Path, *, seed: int = 0, tasks: Sequence[str] = (), workers: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Write documents about the rooms or clothes of a folder.

    Files that are there are kept: an interrupted run goes on, and further tasks are added. The bytes depend on the
    data, the seed and nothing else.

    Args:
        data: a split of `fourm prepare rooms` or `fourm prepare fashion`.
        out: folder of the documents; images are copied into it.
        seed: of everything that is drawn.
        tasks: what to make; empty: everything.
        workers: processes that look at rooms.
        progress: show a progress bar.

    Returns:
        the summary: of every task its number of documents, how to read them, and how often the best guess is right.

    Raises:
        ConfigError: for a task that there is not.
        DataError: if the data is of another kind or damaged, or `out` holds documents of other data.
    """
    manifest = _read_json(data / ROOMS)
    if manifest is None and read_source_facts(data, "image").get("made_by") != "fourm prepare fashion":
        raise DataError(
            f"{data} holds neither a complete set of rooms nor of clothes: run `fourm prepare rooms` or `fourm prepare "
            "fashion` first, and name one of their splits"
        )
    made_from = (
        {"fashion": data.resolve().name} if manifest is None else {k: manifest[k] for k in ("num", "seed", "size")}
    )
    _check_settings(out, {"made_from": made_from, "seed": seed, "version": VERSION})
    if manifest is None:
        makers = _of_clothes(data, out, seed)
    else:
        makers = _of_rooms(data, out, manifest, seed, workers, progress)
    for task in tasks:
        if task not in makers:
            raise ConfigError(f"there is no task '{task}' for this data.{did_you_mean(task, makers)}")
    summary = _read_json(out / SUMMARY) or {}
    chosen = {name: lines for name, lines in makers.items() if name in (tasks or makers)}
    with progress_bar("tasks", len(chosen), visible=progress) as advance:
        for name, (lines, album) in chosen.items():
            if not (out / f"{name}.jsonl").is_file() or name not in summary:
                summary[name] = {"reader": READERS.get(name, "documents"), **_write(out, name, lines, album)}
                publish(out / SUMMARY, json.dumps(summary, indent=1, sort_keys=True).encode() + b"\n")
                _LOG.info("%s: %s", out / f"{name}.jsonl", summary[name])
            advance(1)
    return summary


def _of_rooms(
    data: Path, out: Path, manifest: Mapping[str, Any], seed: int, workers: int, progress: bool
) -> Mapping[str, tuple[Iterator[Line], Album]]:
    source = open_source(str(data), ["rgb", "det", "caption"])
    _copy_images(data / "rgb", out / "images" / "rgb")
    starts = list(accumulate(source.shard_sizes, initial=0))
    todo = [
        facts.FactsShard(str(data), out, n, first, last, int(manifest["seed"]), int(manifest["size"]))
        for n, (first, last) in enumerate(pairwise(starts))
    ]
    missing = [task for task in todo if not task.path.is_file()]
    with progress_bar("rooms", sum(task.stop - task.start for task in missing), visible=progress) as advance:
        run_tasks(facts.start, missing, workers, advance)
    scene = Scene([room for task in todo for room in facts.read_facts(task.path)], data, out, seed)
    albums = {name: Album(out, name) for name in TASKS}
    return {name: (task(scene, albums[name]), albums[name]) for name, task in TASKS.items()}


def _of_clothes(data: Path, out: Path, seed: int) -> Mapping[str, tuple[Iterator[Line], Album]]:
    source: Source = open_source(str(data), ["image", "silhouette", "caption", "label"])
    _copy_images(data / "image", out / "images" / "image")
    return Clothes(source, image_names(source, "image"), out, seed).tasks()


def _copy_images(source: Path, target: Path) -> None:
    """The shards of images with their indexes, those that are there not again."""
    for tar in sorted(source.glob("shard-*.tar")):
        copy = target / tar.name
        if copy.is_file() and copy.stat().st_size == tar.stat().st_size:
            continue
        try:
            with replacing(copy) as temporary:
                shutil.copyfile(tar, temporary)
            with replacing(index_path(copy)) as temporary:
                shutil.copyfile(index_path(tar), temporary)
        except OSError as error:
            raise write_error(copy, error) from error


def _write(out: Path, name: str, lines: Iterator[Line], album: Album) -> dict[str, Any]:
    """Write the documents of a task, its pictures first; says how many, and how often the best guess is right."""
    path, count = out / f"{name}.jsonl", 0
    answers: dict[str, Counter[str]] = {}
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
                count += 1
                if "question" in line:
                    answers.setdefault(line["question"], Counter())[line["answer"]] += 1
            album.close()
    except OSError as error:
        raise write_error(path, error) from error
    guessed = sum(counts.most_common(1)[0][1] for counts in answers.values())
    return {"documents": count, **({"best_guess": round(guessed / count, 4)} if guessed else {})}


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    found = _read_json(out / SETTINGS)
    if found is not None and found != settings:
        raise DataError(
            f"{out} holds documents of other data, another seed or another version of fourm ({found}, not {settings}). "
            "Remove it, or choose another folder"
        )
    publish(out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True).encode() + b"\n")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
