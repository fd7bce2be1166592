"""Tensors in files of torch.distributed.checkpoint; at a URL, what fails for a moment is tried again."""

from __future__ import annotations

import contextlib
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import logger as dcp_logging
from torch.distributed.checkpoint.api import CheckpointException

from fourm.data.remote import attempt
from fourm.errors import CheckpointError, FourmError
from fourm.train.publish import write_error
from fourm.train.remote import Place, RemotePath
from fourm.train.watch import is_about_ranks

T = TypeVar("T")
# What tells of the content, or of a mistake, and would come again.
_NOT_OF_STORAGE = (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AssertionError)


def write_tensors(
    folder: Place, tensors: Mapping[str, Tensor], path: Place, size: int, *, alone: bool, group: Any = None
) -> None:
    """Write tensors into a folder; all ranks together.

    Args:
        folder: where to.
        tensors: by name; spread over the ranks, or the same on every rank.
        path: what errors call the folder.
        size: bytes of the tensors, for errors.
        alone: whether there is one rank.
        group: what ranks talk over; None: the default.

    Raises:
        CheckpointError: if they cannot be written.
        StorageError: if a URL does not take them for now.
    """

    def save() -> None:
        dcp.save(dict(tensors), storage_writer=_writer(folder), no_dist=alone, process_group=group)

    try:
        _tried(folder, f"write {path}", save)
    except (OSError, RuntimeError, FourmError) as error:
        if isinstance(error, RuntimeError) and is_about_ranks(error):
            raise  # nothing is wrong with the disk
        raise write_error(path, error if isinstance(error, OSError | FourmError) else _brief(error), size) from error


def read_tensors(path: Place, targets: Callable[[set[str]], dict[str, Tensor]], *, alone: bool) -> dict[str, Tensor]:
    """Fill tensors from a folder; all ranks together.

    Args:
        path: of the folder.
        targets: from the saved names to the tensors to fill; saved names it leaves out are not read.
        alone: whether there is one rank.

    Raises:
        CheckpointError: if a tensor is missing, has another shape, or cannot be read.
        StorageError: if a URL does not answer for now.
    """
    try:
        reader = _reader(path)
        saved = _tried(path, f"read {path}", reader.read_metadata).state_dict_metadata
        tensors = targets(set(saved))
        _check_shapes(path, tensors, saved)
        _tried(path, f"read {path}", lambda: dcp.load(tensors, storage_reader=_reader(path), no_dist=alone))
    except PermissionError as error:
        raise CheckpointError(f"may not read the checkpoint {path}: {_brief(error)}. Give access to it") from error
    except (OSError, *_NOT_OF_STORAGE) as error:
        if isinstance(error, FourmError) or (isinstance(error, RuntimeError) and is_about_ranks(error)):
            raise
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {_brief(error)}. Delete it to go on from an earlier one"
        ) from error
    return tensors


class _Kept(FourmError):
    """An error on its way past what tries again."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _tried(path: Place, what: str, action: Callable[[], T]) -> T:
    """What an action of all ranks gives. Torch tells all of the same failure, so that they try again together."""

    def once() -> T:
        try:
            with _quiet():
                return action()
        except CheckpointException as error:
            cause = next((cause for cause, _ in error.failures.values()), error)
        except Exception as error:
            cause = error
        if isinstance(cause, _NOT_OF_STORAGE) or not isinstance(cause, Exception):
            raise _Kept(cause) from cause
        raise cause

    try:
        return attempt(once, what) if isinstance(path, RemotePath) else once()
    except _Kept as error:
        raise error.cause from None


def _writer(path: Place) -> dcp.FileSystemWriter:
    if isinstance(path, RemotePath):
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        return FsspecWriter(str(path), sync_files=False)  # an object store has no disk of ours to flush
    return dcp.FileSystemWriter(path, single_file_per_rank=True)


def _reader(path: Place) -> dcp.FileSystemReader:
    if isinstance(path, RemotePath):
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

        return FsspecReader(str(path))
    return dcp.FileSystemReader(path)


def _check_shapes(path: Place, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
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


def _brief(error: BaseException) -> str:
    """Of torch's long texts the first sentence."""
    return str(error) if isinstance(error, OSError) else str(error).partition("\n")[0].partition(". ")[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warnings about single processes and its log of every call; failures come as exceptions."""
    logger = dcp_logging._dcp_logger
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings() if _on_main_thread() else contextlib.nullcontext():
            if _on_main_thread():  # the filters are one list for all threads
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
