"""Checkpoints in DCP's format, published atomically; the oldest are deleted, the newest complete one is chosen."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import logger as dcp_logging
from torch.distributed.checkpoint.api import CheckpointException

from fourm.errors import CheckpointError
from fourm.train.distributed import World
from fourm.train.publish import (
    publish_folder,
    remove_folder,
    remove_leftovers,
    temporary_folder,
    write_error,
    write_json,
)

RECORD = "state.json"
VERSION = 1
_LOG = logging.getLogger(__name__)


class CheckpointStore:
    """The folder of a run's checkpoints, `step-00000100/` and so on.

    Each holds the tensors in the format of torch.distributed.checkpoint and `state.json` with everything else and the
    size of every file. A folder gets its name only when it is complete and on the disk.

    Args:
        folder: of the checkpoints.
        world: the ranks that save and load together.
        keep: the newest so many stay; None keeps all.
    """

    def __init__(self, folder: Path, world: World, keep: int | None = None) -> None:
        self.folder = folder
        self.world = world
        self.keep = keep

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` steps."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """The newest complete checkpoint, the same on every rank; damaged ones are passed over with a warning."""
        return self.world.on_main(self._latest)

    def _latest(self) -> Path | None:
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            problem = damage(path)
            if problem is None:
                return path
            _LOG.warning("%s is passed over: %s", path, problem)
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
        """Write and publish one checkpoint, then delete the oldest beyond `keep`; all ranks call it together.

        Args:
            step: steps done.
            tensors: by name; under data parallelism the same on every rank.
            record: JSON-able rest of the state.

        Raises:
            CheckpointError: if it cannot be written. Nothing of it stays and earlier checkpoints are untouched.
        """
        path = self.path(step)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        temporary = self.world.on_main(lambda: self._prepare(path, size))
        try:
            with _quiet():
                writer = dcp.FileSystemWriter(temporary, single_file_per_rank=True)
                dcp.save(dict(tensors), storage_writer=writer, no_dist=self.world.size == 1)
        except (CheckpointException, OSError, RuntimeError) as error:
            if self.world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise write_error(path, _root_cause(error), size) from error
        self.world.on_main(lambda: self._publish(temporary, path, record, size))
        return path

    def _prepare(self, path: Path, size: int) -> Path:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            if shutil.disk_usage(self.folder).free < size:
                raise write_error(path, "no space left on the device", size)
            return temporary_folder(path)
        except OSError as error:
            raise write_error(path, error, size) from error

    def _publish(self, temporary: Path, path: Path, record: Mapping[str, Any], size: int) -> None:
        try:
            files = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
            write_json(temporary / RECORD, {"version": VERSION, **record, "files": files})
            publish_folder(temporary, path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise write_error(path, error, size) from error
        except CheckpointError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        found = sorted(self.folder.glob("step-*"))
        for newer in [p for p in found if p > path]:
            remove_folder(newer)  # a damaged one that this run did not go on from
        if self.keep is not None:
            older = [p for p in found if p < path]
            for old in older[: max(0, len(older) + 1 - self.keep)]:
                remove_folder(old)

    def load(self, path: Path, targets: Callable[[set[str]], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Read tensors in place.

        Args:
            path: of a complete checkpoint.
            targets: from the saved names to the tensors to fill; saved names it leaves out are not read.

        Returns:
            the filled tensors.

        Raises:
            CheckpointError: if a tensor is missing, has another shape, or cannot be read.
        """
        reader = dcp.FileSystemReader(path)
        try:
            saved = reader.read_metadata().state_dict_metadata
            tensors = targets(set(saved))
            _check_shapes(path, tensors, saved)
            with _quiet():
                dcp.load(tensors, storage_reader=reader, no_dist=self.world.size == 1)
        except (CheckpointException, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"cannot read the checkpoint {path}: {_root_cause(error)}. Delete it to go on from an earlier one"
            ) from error
        return tensors


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder; None if it is complete."""
    try:
        record = read_record(path)
    except CheckpointError as error:
        return str(error)
    for name, size in record["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def read_record(path: Path) -> dict[str, Any]:
    """Everything of a checkpoint but the tensors.

    Raises:
        CheckpointError: if it is missing, damaged or of another format version.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / RECORD} cannot be read: {error}") from None
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {record.get('version')}; this version of fourm reads {VERSION}"
        )
    return record  # type: ignore[no-any-return]


def recipe_differences(saved: Any, current: Any, key: str) -> list[str]:
    """`key: saved -> current` for every plain value that differs."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = sorted({*saved, *current})
        return [line for k in keys for line in recipe_differences(saved.get(k), current.get(k), f"{key}.{k}")]
    return [] if saved == current else [f"{key}: {saved!r} -> {current!r}"]


def _check_shapes(path: Path, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    missing = sorted(set(tensors) - set(saved))
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors of this recipe, for instance {', '.join(missing[:3])}: "
            "it comes from another model. Choose another output folder, or go back to the recipe it was made with"
        )
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tuple(saved[name].size) != tuple(tensor.shape):
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(saved[name].size)}, this recipe needs {tuple(tensor.shape)}. "
                "Choose another output folder, or go back to the recipe it was made with"
            )


def _root_cause(error: BaseException) -> BaseException | str:
    """The error of a rank inside DCP's wrapper; of torch's long texts the first sentence."""
    if isinstance(error, CheckpointException):
        error = next((cause for cause, _ in error.failures.values()), error)
    return error if isinstance(error, OSError) else str(error).partition("\n")[0].partition(". ")[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warnings about single processes and its log of every call; failures come as exceptions."""
    logger = dcp_logging._dcp_logger
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
