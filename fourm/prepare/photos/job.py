"""`fourm prepare photos`: share the pieces among processes and machines, and go on where an earlier run stopped."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fourm.config import to_dict
from fourm.data.files import publish
from fourm.data.shards import CROPS, NUM_SHARDS, crops_digest, read_source_facts, write_source_facts
from fourm.errors import ConfigError, DataError
from fourm.machine import WHOLE, Part, local_place, num_processes
from fourm.modality import to_dict as modality_to_dict
from fourm.prepare.photos.names import split
from fourm.prepare.photos.open import open_inputs
from fourm.prepare.photos.prune import surplus
from fourm.prepare.photos.recipe import IMAGE, ORIGIN, PhotosRecipe
from fourm.prepare.photos.record import (
    FOLDER,
    OTHER,
    REJECTED,
    Rejected,
    forget_record,
    keep_pieces,
    load_record,
    merge_rejected,
)
from fourm.prepare.photos.shard import ShardMaker, ShardTask, missing_sources
from fourm.prepare.progress import progress_bar
from fourm.workers import run_tasks

_LOG = logging.getLogger(__name__)
_MADE_BY = "fourm prepare photos"
_SHOWN = 5


def prepare_photos(
    recipe: PhotosRecipe,
    *,
    workers: int | None = None,
    part: Part = WHOLE,
    engine: Literal["local", "ray"] = "local",
    retry: bool = False,
    progress: bool = True,
) -> list[Rejected]:
    """Write the shards of a recipe. Only what is missing is made; the bytes do not depend on workers or interruptions.

    Args:
        recipe: what to make of which photographs.
        workers: processes, on this machine or of the cluster; None: as many as keep it busy.
        part: which share of the shards this machine makes.
        engine: who runs them: this machine, or a Ray cluster.
        retry: make those shards anew that files were left out of, which may be repaired by now.
        progress: show a progress bar.

    Returns:
        The files that are not in the data set, and why.

    Raises:
        ConfigError: if a labeler does not work, or no photograph is left.
        DataError: if there is no input, or the folder holds other data or cannot be written.
        MissingExtraError: if a library is not installed.
    """
    out = recipe.output
    if Path(recipe.input).is_dir() and out.resolve().is_relative_to(Path(recipe.input).resolve()):
        raise ConfigError(f"the output {out} lies in the input {recipe.input}, so that it would be its own input")
    inputs = open_inputs(recipe)
    _check_settings(recipe)
    _check_labels(recipe)
    new = frozenset(source for source in recipe.labels if not read_source_facts(out, source))
    pieces = keep_pieces(out, inputs.pieces)
    _write_facts(recipe, len(pieces))
    mine = [shard for shard in range(len(pieces)) if part.has(shard)]
    if retry:
        _forget_incomplete(recipe, mine)
    todo = [ShardTask(n, pieces[n], new) for n in mine if _has_work(recipe, n)]
    _LOG.info("%s: %d of %d shards to make in %s", recipe.input, len(todo), len(mine), out)
    sizes = [inputs.size(piece) for piece in pieces]
    total = None if None in sizes else sum(sizes[n] or 0 for n in mine)
    done = 0 if total is None else total - sum(sizes[task.shard] or 0 for task in todo)
    device = recipe.device if any(labeler.network for labeler in recipe.labels.values()) else "cpu"
    try:
        with progress_bar("photographs", total, done, visible=progress) as advance:
            if engine == "ray":
                from fourm.prepare.photos.ray import run_on_ray

                run_on_ray(partial(_start, recipe, 0), todo, workers, advance, gpu=device != "cpu")
            else:
                workers = workers or num_processes(device)
                start = partial(_start, recipe, local_place().index * workers)
                run_tasks(start, todo, workers, advance, "labelling process")
    finally:
        rejected = merge_rejected(out, len(pieces))
    _summarise(recipe, len(pieces), rejected)
    return rejected


def _start(recipe: PhotosRecipe, first: int, number: int) -> ShardMaker:
    """The work of one process.

    Args:
        recipe: what to make.
        first: number of the first process of this command on this machine, where several commands share it.
        number: of the process within its command.
    """
    return ShardMaker(recipe, open_inputs(recipe), first + number)


def _has_work(recipe: PhotosRecipe, shard: int) -> bool:
    record = load_record(recipe.output, shard)
    return record is None or bool(missing_sources(recipe, shard, record) or surplus(recipe.output, shard, record))


def _forget_incomplete(recipe: PhotosRecipe, shards: Sequence[int]) -> None:
    """Let shards that files were left out of be made anew, with all labels they have: others would not fit any more.

    Raises:
        ConfigError: if the recipe does not list all of these.
    """
    for shard in shards:
        record = load_record(recipe.output, shard)
        if record is None or not record.rejected:
            continue
        missing = {s for s in set(record.sources).difference(recipe.extensions()) if (recipe.output / s).is_dir()}
        if missing:
            raise ConfigError(
                f"--retry makes shards anew, but {recipe.output} has the label '{min(missing)}' too, which this recipe "
                f"does not list: add it, or remove {recipe.output / min(missing)}"
            )
        forget_record(recipe.output, shard)


def _check_settings(recipe: PhotosRecipe) -> None:
    """What all labels rest on has to be as in earlier runs."""
    image = to_dict(recipe.image)
    settings = {"input": recipe.input, "shard_size": recipe.shard_size, "seed": recipe.seed, "image": image}
    path = recipe.output / FOLDER / "settings.json"
    try:
        before: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        if read_source_facts(recipe.output, ORIGIN).get("made_by") == _MADE_BY:
            raise DataError(
                f"{recipe.output} has lost its hidden folder {FOLDER}, which says what its shards were made of: copy "
                "it from where the data set came from, or choose another output folder"
            ) from None
        if any(recipe.output.glob("*/*.tar")):
            raise DataError(
                f"{recipe.output} holds shards that `{_MADE_BY}` did not make; choose another folder for the output"
            ) from None
        publish(path, json.dumps(settings, indent=1).encode() + b"\n")
        return
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Choose another output folder") from None
    for name, value in settings.items():
        if before.get(name) != value and not (name == "input" and _same_folder(before.get(name), value)):
            raise DataError(
                f"{recipe.output} was made with {name} {before.get(name)}, this run asks for {value}: choose another "
                "output folder, or remove this one"
            )


def _same_folder(one: Any, other: Any) -> bool:
    """Whether two inputs are the same local folder, as `photos` and `photos/` are."""
    paths = [Path(str(value)) for value in (one, other)]
    return all(path.is_dir() for path in paths) and paths[0].resolve() == paths[1].resolve()


def _check_labels(recipe: PhotosRecipe) -> None:
    """Labels of one folder are all made alike, and of the same other labels."""
    for source, labeler in recipe.labels.items():
        facts = read_source_facts(recipe.output, source)
        found, asked = facts.get("labeler"), labeler.identity()
        if found is None or not any((recipe.output / source).glob("*.tar")):
            continue
        where, remedy = recipe.output / source, "remove that folder to make it anew, or give this label another name"
        for name in sorted({*found, *asked}):
            if found.get(name) != asked.get(name):
                raise DataError(
                    f"{where} was made with {name} {found.get(name)}, but this run asks for {asked.get(name)}: {remedy}"
                )
        before, now = facts.get("made_from", {}), recipe.made_from(source)
        for name in sorted({*before, *now}):
            if name not in now:
                raise DataError(f"{where} was made from the label '{name}', which this run does not list: add it")
            if before.get(name) != now[name]:
                how = "without" if name not in before else "with another form of"
                raise DataError(f"{where} was made {how} the label '{name}': {remedy}")


def _write_facts(recipe: PhotosRecipe, num_shards: int) -> None:
    common = {"made_by": _MADE_BY, NUM_SHARDS: num_shards}
    modalities = recipe.modalities()
    for source in [IMAGE, ORIGIN, *recipe.order()]:
        facts: dict[str, Any] = {**common}
        if source in modalities:
            facts["modality"] = {"name": modalities[source].name, **modality_to_dict(modalities[source])}
        if source in recipe.labels:
            facts["labeler"] = recipe.labels[source].identity()
            facts["made_from"] = recipe.made_from(source)
            if CROPS in recipe.made_from(source):
                facts[CROPS] = crops_digest(recipe.output)
        if read_source_facts(recipe.output, source) != facts:
            write_source_facts(recipe.output, source, facts)


def _summarise(recipe: PhotosRecipe, num_shards: int, rejected: Sequence[Rejected]) -> None:
    records = [load_record(recipe.output, shard) for shard in range(num_shards)]
    made = sum(record.num_samples for record in records if record)
    waiting = sum(record is None for record in records)
    _LOG.info(
        "%s: %d photographs with %s in %d shards%s",
        *(recipe.output, made, ", ".join(recipe.labels) or "no labels", num_shards - waiting),
        f"; {waiting} more shards are for other parts" if waiting else "",
    )
    others = [entry for entry in rejected if entry.by == OTHER]
    counts = Counter(entry.by for entry in rejected if entry.by != OTHER)
    if counts:
        _LOG.warning(
            "%d left out; %s names each of them, and --retry tries them again:",
            *(sum(counts.values()), recipe.output / REJECTED),
        )
    for by, number in counts.most_common():
        example = next(entry for entry in rejected if entry.by == by)
        _LOG.warning("  %d by %s, for instance %s: %s", number, by, example.file, example.reason)
    if others:
        endings = Counter(f".{split(entry.file)[1]}" for entry in others).most_common(_SHOWN)
        _LOG.info("  %d other files are no photographs: %s", len(others), ", ".join(f"{n} {e}" for e, n in endings))
    if records and not made and not waiting:
        raise ConfigError(
            f"none of the {len(rejected)} files became a sample: see {recipe.output / REJECTED}; --retry tries them "
            "again"
        )
