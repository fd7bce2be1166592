"""The training loop of every job; jobs differ by their objective, never by a Trainer of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourm.errors import DataError, FourmError
from fourm.objectives.base import Objective
from fourm.rng import torch_seed
from fourm.train.checkpoint import CheckpointStore
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World, start
from fourm.train.ema import WeightAverage
from fourm.train.feed import Feed, Loader, Portion
from fourm.train.freeze import Freezer
from fourm.train.guard import BadStepError, Guard, policy
from fourm.train.journal import Journal
from fourm.train.ledger import LossLedger
from fourm.train.meter import Meter
from fourm.train.optimizer import Updater, build_optimizer, select_trainable
from fourm.train.parallel import parallelise
from fourm.train.progress import Progress
from fourm.train.publish import write_folder
from fourm.train.saving import Saving
from fourm.train.schedule import schedule_of
from fourm.train.signals import Interrupted, StopRequest
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState, completed_state, mark_complete
from fourm.train.tracking import Tracker
from fourm.train.watch import RankLostError, Watch, explain

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)


class Trainer:
    """Trains a model on an objective, with exact losses over ranks and accumulation and an exact resume.

    Args:
        model: built, on any device; moved to the run's. With `train.parallel.kind: fsdp`, rank 0's weights count, and
            other ranks may give it on the meta device.
        objective: what is asked and how answers are scored.
        loader: `loader(cursor)` gives this rank's (micro-batch, cursor after it) without end from there on; None is
            the beginning. A cursor is JSON-able, and the same on every rank.
        config: the recipe's `train` part.
        output: folder of the run: log.jsonl, checkpoints/, pictures/, tensorboard/, model/ and completed.json.
        world: the processes; None starts them from torchrun's environment.
        evaluate: results by name, called on every rank with the model in eval mode, without gradients, and carrying
            the averaged weights if there are any.
        pictures: pictures by name for a step, called on the main rank in the same way.
        metadata: kept in every checkpoint; the model and modalities in `metadata["recipe"]` and the hashes in
            `metadata["tokenizers"]` must stay the same.
        read_recipe: the recipe of a checkpoint as this version writes it, with the defaults of what an earlier one had
            not; None: as it is.
        export: writes the finished model into the given folder, called on the main rank in the same way.
        flops_per_sample: operations of the model per sample, forward and backward, for the utilisation in the log.

    Raises:
        ConfigError: if the recipe contradicts itself.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: Loader,
        config: TrainConfig,
        *,
        output: Path,
        world: World | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        pictures: Callable[[int], dict[str, Image]] | None = None,
        metadata: dict[str, Any] | None = None,
        read_recipe: Callable[[Any], Any] | None = None,
        export: Callable[[nn.Module, Path], None] | None = None,
        flops_per_sample: float | None = None,
    ) -> None:
        config.check()
        self.model, self.objective, self.loader, self.config = model, objective, loader, config
        self.world = world or start(config.device, config.threads, timeout_minutes=config.timeout_minutes)
        config.check(self.world.size)
        self.output = Path(output)
        self.evaluate, self.pictures, self.export = evaluate, pictures, export
        self.metadata, self.read_recipe = metadata or {}, read_recipe
        self.state = RunState()
        self._schedule = schedule_of(config)
        self._meter = Meter(self.world, config.batch_size, flops_per_sample, config.peak_tflops)
        self._tracker: Tracker | None = None

    @property
    def progress(self) -> int:
        """What is done, in the unit of the run's length."""
        return self.state.step if self.config.unit == "steps" else self.state.tokens

    def fit(self) -> RunState:
        """Train to the end, from the newest checkpoint if there is one; at once if the run is complete.

        Returns:
            the last state, with the results of the last evaluation.

        Raises:
            TrainingError: if a loss is not finite, or a spike; the last good checkpoint stays.
            CheckpointError: if a checkpoint cannot be written, or does not fit the recipe.
            DataError: if the loader ends before the run does.
            Interrupted: after SIGTERM or Ctrl-C, with a checkpoint saved (exit status 143 or 130).
        """
        c, shown = self.config, self.world.is_main
        done = self.world.on_main(lambda: completed_state(self.output, c)) if c.resume == "auto" else None
        if done is not None:
            _LOG.info("%s is complete (step %d): nothing to do", self.output, done.step)
            self.state = done
            return done
        try:
            self._train(shown)
        except Exception as error:
            explained = explain(error, self.world, self.state.step)
            if explained is error:
                raise
            raise explained from error
        return self.state

    def _train(self, shown: bool) -> None:
        """All of `fit` for a run that is not complete."""
        c = self.config
        self._prepare()
        self.state, self._ledger.pending = self._snapshot.resume()
        if shown:
            self._tracker = Tracker(
                self.output,
                self.state.step,
                tensorboard=c.tensorboard,
                wandb=c.wandb,
                wandb_project=c.wandb_project,
                config=self.metadata,
            )
        try:
            with (
                StopRequest() as stop,
                Progress(c.unit, c.length, self.progress, shown=shown) as self._display,
                Watch(c.timeout_minutes, self.world.tell) as self._watch,
            ):
                self._saving = Saving(self._snapshot, self._ledger, c, self._watch)
                if self.progress < c.length:
                    self._run_until(stop)
                self._finish()
        except BaseException as error:
            if self._tracker is not None:
                self._tracker.ended(self.state.step, error)
            raise
        finally:
            self._store.abandon()
            if self._tracker is not None:
                self._tracker.close()

    def _prepare(self) -> None:
        """Place the model and build what hangs on its parameters."""
        c, world = self.config, self.world
        select_trainable(self.model, c.trainable, c.freeze)
        for module in self.objective.frozen.values():
            module.to(world.device).eval().requires_grad_(False)
        self._parallel = parallelise(self.model, self.objective, c, world)
        trained = self._parallel.model
        optimizer = build_optimizer(trained, c)
        self._updater = Updater(optimizer, c.optimizer.clip_grad)
        self._guard = Guard.of(c, world)
        self._freezer = Freezer(trained, c)
        self._average = WeightAverage(trained, c.ema_decay) if c.ema_decay is not None else None
        self._ledger = LossLedger(self.objective.parts, c.log_every_steps, world, self._guard)
        folder = c.checkpoints or self.output / "checkpoints"
        self._store = CheckpointStore(folder, world, c.keep_checkpoints, background=c.save_in_background)
        self._snapshot = Snapshot(
            self._store, trained, optimizer, self._average, c, self.metadata, self.read_recipe, self._guard
        )

    def _run_until(self, stop: StopRequest) -> None:
        """Run to the end, or to the request to stop."""
        self._feed = Feed(self.loader, self.objective, self.config, self.world, self.state, self._watch)
        self._journal = Journal(self._feed, self._meter, self._display, self._tracker)
        try:
            self._run(stop)
        except (RuntimeError, DataError) as error:
            # A signal reaches the loader's processes too, and torch raises wherever this one is when they die: within a
            # step, which then may be half done, or in an evaluation.
            time.sleep(0.1)
            of_ours = isinstance(error, FourmError) and not isinstance(error, DataError)
            if of_ours or not stop.number:
                raise
            _LOG.warning("stopped within a step; the same command goes on from there, from the newest checkpoint")
            raise Interrupted(stop.number) from None
        finally:
            self._feed.close()

    def _run(self, stop: StopRequest) -> None:
        if "rollback" in (self.config.on_nan, self.config.on_spike) and not self.state.step:
            self._save()  # so that there is something to go back to
        self._journal.begin(self.state)
        while self.progress < self.config.length:
            portion = self._feed.next(self.state, stop)
            if portion.stop_for or portion.failed:
                self._end(portion)
            with self._watch.over("busy with a step, or waiting for another rank"):
                self._step(portion.batches, portion.totals, portion.tokens)
            self.state.cursor = portion.cursor
            try:
                self._after_step()
            except BadStepError as found:
                if policy(found, self.config) != "rollback":
                    raise
                self._roll_back(found)

    def _end(self, portion: Portion) -> None:
        """Save, then end before the run does: for a signal, or because a rank has no data to go on with."""
        place = "there"
        try:
            self._save(needed=True)
        except BadStepError as found:
            if portion.stop_for and policy(found, self.config) != "rollback":
                raise
            # Left at the newest checkpoint, the run meets this step again and does then what the recipe says.
            _LOG.warning("%s", found)
            place = "the newest checkpoint"
        self._saving.finish()
        if portion.stop_for:
            _LOG.warning("stopped after step %d; the same command goes on from %s", self.state.step, place)
            raise Interrupted(portion.stop_for)
        if portion.error is not None:
            raise portion.error
        said = "; ".join(f"rank {rank}: {reason}" for rank, reason in self.world.told().items())
        raise RankLostError(f"another rank cannot go on after step {self.state.step}: {said}")

    def _roll_back(self, error: BadStepError) -> None:
        """Go back to the newest checkpoint, and on with the data that comes now."""
        cursor, step = self.state.cursor, self.state.step
        self.state = self._saving.go_back(error)
        self.state.cursor = cursor
        self._journal.rewind(self.state)
        _LOG.warning("%s. Back to step %d, with the data after step %d", error, self.state.step, step)

    def _step(self, batches: list[Any], totals: dict[str, float], tokens: int) -> None:
        """One optimizer step. Nothing here waits for the device."""
        c, state, world = self.config, self.state, self.world
        # Dropout and drop path draw from torch's generator; made a function of the step, it need not be saved.
        torch.manual_seed(torch_seed(c.seed, "train", state.step, world.rank))
        self._lr = self._schedule.lr(state.step, 1) if c.unit == "steps" else self._schedule.lr(state.tokens, tokens)
        self._lr *= self._freezer.lr_scale(state)
        values: Tensor | None = None
        for i, batch in enumerate(batches):
            with self._parallel.micro_batch(last=i == len(batches) - 1):
                scalar, part = self._parallel.module(batch.to(world.device, non_blocking=True), totals)
                # Data parallelism averages gradients over ranks; the loss is a sum over them.
                (scalar * world.size if world.size > 1 else scalar).backward()
            values = part if values is None else values + part
        assert values is not None
        begun = dataclasses.replace(state)
        self._freezer.before(begun)
        state.step += 1
        state.tokens += tokens
        guard, loss = self._guard, values[0]
        leaves_out = None if guard is None else lambda norm: guard.leaves_out(norm, loss, begun.step)
        self._norm = self._updater.step(self._lr, measure=self._due(c.log_every_steps), leaves_out=leaves_out)
        self._freezer.after(begun)
        if self._average is not None:
            self._average.update(state.step - 1)
        self._ledger.add(values, list(totals.values()))
        if guard is not None and self._freezer.differs(begun, state):
            guard.restart()

    def _after_step(self) -> None:
        c = self.config
        self._display.advance(self.progress)
        if self._due(c.log_every_steps):
            self._log()
        with self._journal.apart():
            if self._due(c.eval_every_steps):
                self._evaluate()
            if self._due(c.pictures_every_steps):
                self._draw()
            if self._due(c.save_every_steps):
                self._save()

    def _due(self, every: int | None) -> bool:
        """Whether something that is done every so many steps, and at the end, is done now."""
        return self.progress >= self.config.length or (every is not None and self.state.step % every == 0)

    def _log(self) -> None:
        self._saving.read_losses(self.state.step)
        figures = self._ledger.record()
        if self._norm is not None:
            figures["grad_norm"] = float(self._norm)
        self._journal.trained(self.state, self.progress, {**figures, "lr": self._lr})

    @contextlib.contextmanager
    def _as_exported(self) -> Iterator[None]:
        """The model as it will be used: averaged weights, eval mode, no gradients."""
        with self._parallel.exported(self._average), torch.no_grad():
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        with self._as_exported():
            metrics = self.evaluate()
        self.state.evaluated(metrics, self.config.best_metric)
        self._journal.evaluated(self.state, metrics)

    def _draw(self) -> None:
        if self.pictures is not None:
            with self._as_exported():
                if self.world.is_main:
                    self._journal.drew(self.state, self.pictures(self.state.step))

    def _finish(self) -> None:
        """Export the finished model and mark the run as complete; evaluated and saved it is already."""
        self._saving.finish()
        if self.export is not None:
            export = self.export
            with self._as_exported():
                self.world.on_main(lambda: write_folder(self.output / "model", lambda path: export(self.model, path)))
        self.world.on_main(lambda: mark_complete(self.output, self.state, self.config))

    def _save(self, needed: bool = False) -> None:
        """Save a checkpoint; `needed`: the run ends here, so that it must not fail."""
        self._saving.read_losses(self.state.step)
        if self._tracker is not None:
            self._tracker.sync()
        self._saving.save(self.state, needed=needed or self.progress >= self.config.length)
