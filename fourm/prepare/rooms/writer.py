"""`fourm prepare rooms`: rooms into shards, resumable, with a manifest that appears when everything is there."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from fourm.errors import ConfigError, DataError
from fourm.prepare.progress import progress_bar
from fourm.prepare.rooms.classes import CLASSES, MIN_SIZE, SOURCES
from fourm.prepare.rooms.rays import check_installed, has_fast_tracer
from fourm.prepare.rooms.shard import RoomShard, render_shards

logger = logging.getLogger(__name__)

MANIFEST = "rooms.json"
VERSION = 1
"""Rooms of another version look different even with the same seed."""


def render(
    out: Path, *, num: int, size: int, seed: int, workers: int, shard_size: int = 250, progress: bool = True
) -> None:
    """Render `num` rooms into shards below `out`.

    Room i of a seed is a pure function of (seed, i, size): the number of workers, interruptions and what was rendered
    before change no byte. Shards that are complete are kept: an interrupted run continues, a larger `num` adds rooms.

    Args:
        out: folder of the data set; made if missing.
        num: rooms.
        size: pixels per side.
        seed: another seed gives other rooms.
        workers: processes that render.
        shard_size: rooms per shard.
        progress: show a progress bar.

    Raises:
        ConfigError: for a number out of range.
        MissingExtraError: if trimesh, OpenCV or a ray tracer is not installed.
        DataError: if the folder holds other data or cannot be written.
    """
    out = Path(out)
    _check_numbers(num=num, size=size, workers=workers, shard_size=shard_size)
    check_installed()
    from fourm.data.files import publish
    from fourm.data.index import keys_digest
    from fourm.data.shards import begin_shards, shard_is_complete

    settings = {"size": size, "seed": seed, "shard_size": shard_size, "classes": list(CLASSES), "version": VERSION}
    _check_folder(out, num, settings)
    manifest = _json({"num": num, **settings})
    tasks = [
        RoomShard(out, shard, start, min(start + shard_size, num), size, seed)
        for shard, start in enumerate(range(0, num, shard_size))
    ]
    todo = [task for task in tasks if not shard_is_complete(out, SOURCES, task.shard, keys_digest(task.keys))]
    if not todo and _read(out / MANIFEST) == json.loads(manifest):
        logger.info("%s: all %d rooms are there already", out, num)
        return
    _unlink(out / MANIFEST)
    facts = {source: {"made_by": "fourm prepare rooms", **settings} for source in SOURCES}
    begin_shards(out, facts, num, shard_size)
    if not has_fast_tracer():
        logger.warning("embreex is not installed: trimesh traces the rays, about a hundred times slower")
    done = num - sum(task.stop - task.start for task in todo)
    with progress_bar("rooms", num, done, visible=progress) as on_rooms:
        render_shards(todo, workers, on_rooms)
    publish(out / MANIFEST, manifest)


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        least = MIN_SIZE if name == "size" else 1
        if value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected at least {least}")


def _check_folder(out: Path, num: int, settings: dict[str, Any]) -> None:
    """Refuse to mix rooms of different settings, to overwrite other data, and to leave more rooms than asked for."""
    from fourm.data.shards import read_source_facts

    remedy = f"choose another folder, or remove {out} first"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; expected a folder for the rooms: choose another path")
    for source in SOURCES:
        shards = sorted((out / source).glob("shard-*.tar"))
        facts = read_source_facts(out, source)
        if shards and not facts:
            raise DataError(f"{out / source} holds shards that `fourm prepare rooms` did not make: {remedy}")
        for key in settings if facts else ():
            if facts.get(key) != settings[key]:
                raise DataError(
                    f"{out} already holds rooms with {key} {facts.get(key)}; "
                    f"this run asks for {key} {settings[key]}: {remedy}"
                )
        last = (num - 1) // settings["shard_size"]
        surplus = [path for path in shards if int(path.stem.removeprefix("shard-")) > last]
        if surplus:
            raise DataError(
                f"{out} already holds more rooms than the {num} asked for (for instance {surplus[0]}): {remedy}"
            )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot replace {path}: {error.strerror}; check the permissions of the folder") from error
