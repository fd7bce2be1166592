"""Checkpoints in DCP's format, published atomically; the oldest are deleted, the newest complete one is chosen."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from fourm.errors import CheckpointError, DataError, FourmError
from fourm.train.distributed import World
from fourm.train.publish import (
    publish_folder,
    remove_folder,
    remove_leftovers,
    temporary_folder,
    write_error,
    write_json,
)
from fourm.train.record import RECORD, VERSION, damage
from fourm.train.remote import Place, RemotePath, place
from fourm.train.tensor_files import read_tensors, write_tensors

_LOG = logging.getLogger(__name__)


class CheckpointStore:
    """The folder of a run's checkpoints, `step-00000100/` and so on, on a disk or at a URL.

    Each holds the tensors in the format of torch.distributed.checkpoint and `state.json` with everything else and the
    size of every file. On a disk, a folder gets its name only when it is complete and its bytes are safe; at a URL,
    where nothing can be renamed, `state.json` is written last. What has none is no checkpoint.

    Args:
        folder: of the checkpoints; a path, or a URL that fsspec knows.
        world: the ranks that save and load together.
        keep: the newest so many stay; None keeps all.
        background: copy the tensors to the host and write them while training goes on. A failure shows at the next
            `save` or `finish`.
    """

    def __init__(self, folder: Path | str, world: World, keep: int | None = None, *, background: bool = False) -> None:
        self.folder = place(folder)
        self.world = world
        self.keep = keep
        self._background = background
        self._writing: _Writing | None = None
        # What the writing threads tell each other must not come between what the training ones do.
        self._group = dist.new_group(backend="gloo") if background and world.size > 1 else None

    def path(self, step: int) -> Any:
        """Folder of the checkpoint after `step` steps."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Any:
        """The newest complete checkpoint, the same on every rank; damaged ones are passed over with a warning."""
        return self.world.on_main(self._latest)

    def _latest(self) -> Place | None:
        damaged = []
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            problem = damage(path)
            if problem is None:
                return path  # type: ignore[no-any-return]
            _LOG.warning("%s is passed over: %s", path, problem)
            if not isinstance(path, RemotePath) or (path / RECORD).is_file():  # else a kill left it half-written
                damaged.append(f"{path.name}: {problem}")
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is complete ({'; '.join(damaged[:3])}). Training would begin anew and "
                "delete them: bring back what is missing, or remove the folder to begin anew"
            )
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Any:
        """Write and publish one checkpoint, then delete the oldest beyond `keep`; all ranks call it together.

        Args:
            step: steps done.
            tensors: by name; spread over the ranks, or the same on every rank.
            record: JSON-able rest of the state.

        Returns:
            its folder; in the background, the folder it will have.

        Raises:
            CheckpointError: if it, or the one before in the background, cannot be written. Nothing of it stays and
                earlier checkpoints are untouched.
        """
        self.finish()
        path = self.path(step)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        temporary = self.world.on_main(lambda: self._prepare(path, size))
        if self._background:
            copies = BlockingAsyncStager(cache_staged_state_dict=False).stage(dict(tensors))
            warnings.filterwarnings("ignore", message=".*the intent is to save in a single process.*")
            text = json.dumps(record, default=str)  # as it is now
            self._writing = _Writing(lambda: self._write_all(temporary, path, copies, json.loads(text), size))
        else:
            self._write(temporary, path, tensors, size)
            self.world.on_main(lambda: self._publish(temporary, path, record, size))
        return path

    def finish(self) -> None:
        """Wait until what is written in the background is published; all ranks call it together.

        Raises:
            CheckpointError: if it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            error = writing.wait()
            self.world.on_main(lambda: _raise(error))
            _raise(error)

    def abandon(self, seconds: float = 60) -> None:
        """Wait for what is written in the background, but not for long, and whatever becomes of it."""
        if self._writing is not None:
            self._writing.join(seconds)
            self._writing = None

    def _write_all(
        self, temporary: Place, path: Place, tensors: Mapping[str, Tensor], record: Mapping[str, Any], size: int
    ) -> None:
        self._write(temporary, path, tensors, size)
        if self.world.is_main:
            self._publish(temporary, path, record, size)

    def _write(self, temporary: Place, path: Place, tensors: Mapping[str, Tensor], size: int) -> None:
        try:
            write_tensors(temporary, tensors, path, size, alone=self.world.size == 1, group=self._group)
        except Exception:
            if self.world.is_main:
                _discard(temporary)
            raise

    def _prepare(self, path: Place, size: int) -> Place:
        try:
            if isinstance(path, RemotePath):
                for left in self.folder.glob("step-*"):
                    if not (left / RECORD).is_file():
                        left.remove()
                path.remove()
                return path
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            if shutil.disk_usage(self.folder).free < size:
                raise write_error(path, "no space left on the device", size)
            return temporary_folder(path)
        except (OSError, DataError) as error:
            raise write_error(path, error, size) from error

    def _publish(self, temporary: Place, path: Place, record: Mapping[str, Any], size: int) -> None:
        try:
            written: list[Any] = list(temporary.iterdir())
            files = {file.name: file.stat().st_size for file in sorted(written)}
            whole = {"version": VERSION, **record, "files": files}
            if isinstance(temporary, RemotePath):
                (temporary / RECORD).write_text(json.dumps(whole, indent=1, default=str))
            else:
                write_json(temporary / RECORD, whole)
                publish_folder(temporary, path)  # type: ignore[arg-type]
        except (OSError, DataError) as error:
            _discard(temporary)
            raise write_error(path, error, size) from error
        except CheckpointError:
            _discard(temporary)
            raise
        self._remove_others(path)

    def _remove_others(self, path: Place) -> None:
        """Delete what a new checkpoint makes needless; where that fails, the next one tries again."""
        try:
            found = sorted(self.folder.glob("step-*"))
            needless = [p for p in found if p > path]  # a damaged one that this run did not go on from
            if self.keep is not None:
                older = [p for p in found if p < path]
                needless += older[: max(0, len(older) + 1 - self.keep)]
            for old in needless:
                _remove(old)
        except (OSError, DataError) as error:
            _LOG.warning("%s is saved, but an older checkpoint beside it cannot be deleted: %s", path, error)

    def load(self, path: Place, targets: Callable[[set[str]], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Read tensors in place.

        Args:
            path: of a complete checkpoint.
            targets: from the saved names to the tensors to fill; saved names it leaves out are not read.

        Returns:
            the filled tensors.

        Raises:
            CheckpointError: if a tensor is missing, has another shape, or cannot be read.
        """
        return read_tensors(path, targets, alone=self.world.size == 1)


def recipe_differences(saved: Any, current: Any, key: str) -> list[str]:
    """`key: saved -> current` for every plain value that differs; a key that is not there is None."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = sorted({*saved, *current})
        return [line for k in keys for line in recipe_differences(saved.get(k), current.get(k), f"{key}.{k}")]
    return [] if saved == current else [f"{key}: {saved!r} -> {current!r}"]


class _Writing(threading.Thread):
    """A save that goes on beside the training."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._error = error

    def wait(self) -> BaseException | None:
        """What went wrong, once it is over."""
        self.join()
        return self._error


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


def _discard(path: Place) -> None:
    """Delete what became nothing, if that is still possible."""
    with contextlib.suppress(FourmError):
        path.remove() if isinstance(path, RemotePath) else shutil.rmtree(path, ignore_errors=True)


def _remove(path: Place) -> None:
    """Delete a checkpoint; it stops being one first, so that no reader finds half of it."""
    if isinstance(path, RemotePath):
        (path / RECORD).remove()
        path.remove()
    else:
        remove_folder(path)
