"""The checkpoints of a run while it goes on: what a save needs, what one that fails means, and the way back to one."""

from __future__ import annotations

import logging

from fourm.errors import CheckpointError
from fourm.train.configs import TrainConfig
from fourm.train.guard import BadStepError
from fourm.train.ledger import LossLedger
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState
from fourm.train.watch import Watch

_LOG = logging.getLogger(__name__)
_GOES_ON = "Training goes on, as train.on_failed_save says"


class Saving:
    """Saves and goes back, as `train.on_failed_save` and `train.max_nan` say; every rank at the same step.

    Args:
        snapshot: what is saved, and where.
        ledger: losses, which are read before a save: of a run that is not finite there is no checkpoint.
        config: the recipe's `train` part.
        watch: looks after saves that hang.
    """

    def __init__(self, snapshot: Snapshot, ledger: LossLedger, config: TrainConfig, watch: Watch) -> None:
        self._snapshot, self._ledger, self._config, self._watch = snapshot, ledger, config, watch
        self._store = snapshot.store
        self._rollbacks = 0

    def read_losses(self, step: int) -> None:
        """Fetch the losses of the steps since the last time.

        Raises:
            BadStepError: if they are not finite, or spikes; names the checkpoint that is left and what to change.
        """
        try:
            self._ledger.read(step)
        except BadStepError as error:
            try:
                last = self._store.latest()
                kept = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
            except CheckpointError as problem:
                kept = str(problem)
            raise type(error)(
                f"{error}. {kept}; the same command goes on from there. Set a smaller train.optimizer.lr (peak now "
                f"{self._config.peak_lr:g}), train.optimizer.clip_grad=1, a longer warm-up or train.precision=fp32, "
                "or check the data"
            ) from None

    def save(self, state: RunState, *, needed: bool) -> None:
        """Save a checkpoint, once its losses are read.

        Args:
            state: where the run stands.
            needed: the run ends here, so that it must not fail.

        Raises:
            CheckpointError: if it cannot be written and must not fail.
        """
        may_fail = self._config.on_failed_save == "continue"
        try:
            self.finish()
        except CheckpointError as error:
            if not (needed or may_fail):
                raise
            self._snapshot.saved_step = -1  # it may have been this step's
            _LOG.warning("%s. %s", error, "The present state is saved now" if needed else _GOES_ON)
        try:
            with self._watch.over("busy with a checkpoint"):
                self._snapshot.save(state, self._ledger.pending)
            self._rollbacks = 0
        except CheckpointError as error:
            if needed or not may_fail:
                raise
            _LOG.warning("%s. %s", error, _GOES_ON)

    def finish(self) -> None:
        """Wait for the checkpoint that is written in the background, if there is one."""
        with self._watch.over("busy with a checkpoint"):
            self._store.finish()

    def go_back(self, error: BadStepError) -> RunState:
        """The state of the newest checkpoint, which is taken up again.

        Args:
            error: why.

        Raises:
            BadStepError: `error`, if there is no checkpoint or the run has gone back as often as it may.
        """
        self._store.finish()
        path = self._store.latest()
        self._rollbacks += 1
        if path is None or self._rollbacks > self._config.max_nan:
            raise error
        state, pending = self._snapshot.restore(path)
        self._ledger.forget(pending)
        return state
