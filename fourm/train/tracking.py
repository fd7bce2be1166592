"""What a run writes about itself: JSON lines always, TensorBoard and Weights & Biases when wanted."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fourm.errors import MissingExtraError
from fourm.files import publish
from fourm.report import runs
from fourm.report.runs import LOG_NAME
from fourm.train.publish import write_error

if TYPE_CHECKING:
    from PIL.Image import Image

END = "end"
"""Kind of the last record of a run that ended before its time."""
_LOG = logging.getLogger(__name__)


class Tracker:
    """Records of one run; only the main process has one.

    `log.jsonl` holds one object per line: `kind` (train or eval), `step`, `tokens`, then numbers. Its curve is
    continuous over resumes: records of steps after the checkpoint are dropped, since they come again. A run that ends
    before its time leaves a last line of kind `end` that says why, until it goes on.

    Args:
        output: folder of the run.
        step: steps done so far.
        tensorboard: also write TensorBoard files, if the package is there.
        wandb: also log to Weights & Biases.
        wandb_project: its project.
        config: shown there with the run.

    Raises:
        MissingExtraError: if wandb is wanted but not installed.
        CheckpointError: if the folder cannot be written.
    """

    def __init__(
        self,
        output: Path,
        step: int,
        *,
        tensorboard: bool = False,
        wandb: bool = False,
        wandb_project: str = "fourm",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.output = output
        self.path = output / LOG_NAME
        self._file = self._open(step)
        self._board = _tensorboard(output / "tensorboard", step) if tensorboard else None
        self._run = _wandb(output, wandb_project, config) if wandb else None

    def _open(self, step: int) -> IO[str]:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            kept = [r for r in read_log(self.path) if r["step"] <= step and r.get("kind") != END]
            publish(self.path, "".join(json.dumps(record) + "\n" for record in kept))
            return self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise write_error(self.path, error) from error

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add one record.

        Args:
            kind: `train` or `eval`.
            step: steps done.
            values: numbers by name; what is not finite becomes null.
        """
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **plain}) + "\n")
            self._file.flush()
        except OSError as error:
            raise write_error(self.path, error) from error
        numbers = {f"{kind}/{k}": v for k, v in plain.items() if isinstance(v, int | float)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(numbers, step=step)

    def rewind(self, step: int) -> None:
        """Forget the records after a step, which the run goes back to."""
        self._file.close()
        self._file = self._open(step)

    def ended(self, step: int, error: BaseException) -> None:
        """Say in the last line of the log why a run ends before its time; never raises, since it goes wrong already."""
        line = {"kind": END, "step": step, "error": type(error).__name__, "reason": str(error)}
        try:
            self._file.write(json.dumps(line | {"time": time.time()}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except (OSError, ValueError) as failure:  # a full disk may be why the run ends
            _LOG.debug("the reason is not in %s: %s", self.path, failure)

    def pictures(self, step: int, pictures: Mapping[str, Image]) -> None:
        """Save pictures as `pictures/step-00000100/<name>.png`."""
        folder = self.output / "pictures" / f"step-{step:08d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures.items():
                picture.save(folder / f"{name}.png")
        except OSError as error:
            raise write_error(folder, error) from error
        if self._board is not None:
            import numpy as np

            for name, picture in pictures.items():
                self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Image(picture) for name, picture in pictures.items()}, step=step)

    def sync(self) -> None:
        """Wait until the records are on the disk, so that no checkpoint is newer than its curve."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self) -> None:
        """Finish all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, none if there is none; what a kill or a power cut has damaged is left out."""
    return runs.read_log(path) if path.exists() else []


def _tensorboard(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        _LOG.info("no TensorBoard files: the package is not installed (pip install 'fourm[tensorboard]')")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _wandb(output: Path, project: str, config: Mapping[str, Any] | None) -> Any:
    try:
        import wandb
    except ImportError:
        raise MissingExtraError("wandb", "wandb", "train.wandb=true") from None
    output = output.resolve()
    name = "-".join(output.parts[-2:])
    return wandb.init(project=project, name=name, id=name, dir=str(output), resume="allow", config=dict(config or {}))
