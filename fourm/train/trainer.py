"""The training loop of every job; jobs differ by their objective, never by a Trainer of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError, DataError, FourmError
from fourm.objectives.base import Objective
from fourm.rng import torch_seed
from fourm.train.checkpoint import CheckpointStore
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World, start
from fourm.train.ema import WeightAverage
from fourm.train.feed import Feed, Loader, Portion
from fourm.train.freeze import Freezer
from fourm.train.ledger import LossLedger, NotFiniteError
from fourm.train.meter import Meter
from fourm.train.optimizer import Updater, build_optimizer, select_trainable
from fourm.train.parallel import parallelise
from fourm.train.progress import Progress
from fourm.train.publish import write_folder
from fourm.train.schedule import schedule_of
from fourm.train.signals import Interrupted, StopRequest
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState, completed_state, mark_complete
from fourm.train.tracking import Tracker
from fourm.train.watch import RankLostError, Watch, explain

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)
_GOES_ON = "Training goes on, as train.on_failed_save says"


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
        self._rollbacks = 0

    @property
    def progress(self) -> int:
        """What is done, in the unit of the run's length."""
        return self.state.step if self.config.unit == "steps" else self.state.tokens

    def fit(self) -> RunState:
        """Train to the end, from the newest checkpoint if there is one; at once if the run is complete.

        Returns:
            the last state, with the results of the last evaluation.

        Raises:
            TrainingError: if a loss is not finite; the last good checkpoint stays.
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
        skip = c.optimizer.skip_grad or (math.inf if c.on_nan == "skip" else None)
        self._updater = Updater(optimizer, c.optimizer.clip_grad, skip)
        self._freezer = Freezer(trained, c)
        self._average = WeightAverage(trained, c.ema_decay) if c.ema_decay is not None else None
        tolerate = c.max_nan if c.on_nan == "skip" else 0
        self._ledger = LossLedger(self.objective.parts, c.log_every_steps, world, tolerate)
        folder = c.checkpoints or self.output / "checkpoints"
        self._store = CheckpointStore(folder, world, c.keep_checkpoints, background=c.save_in_background)
        self._snapshot = Snapshot(self._store, trained, optimizer, self._average, c, self.metadata, self.read_recipe)

    def _run_until(self, stop: StopRequest) -> None:
        """Run to the end, or to the request to stop."""
        self._feed = Feed(self.loader, self.objective, self.config, self.world, self.state, self._watch)
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
        if self.config.on_nan == "rollback" and not self.state.step:
            self._save()  # so that there is something to go back to
        self._begin_record()
        while self.progress < self.config.length:
            portion = self._feed.next(self.state, stop)
            if portion.stop_for or portion.failed:
                self._end(portion)
            with self._watch.over("busy with a step, or waiting for another rank"):
                self._step(portion.batches, portion.totals, portion.tokens)
            self.state.cursor = portion.cursor
            try:
                self._after_step()
            except NotFiniteError as found:
                if self.config.on_nan != "rollback":
                    raise
                self._roll_back(found)

    def _begin_record(self) -> None:
        """What the next record of the log says of speed begins here."""
        self._mark, self._marked_tokens, self._feed.waited = time.perf_counter(), self.state.tokens, 0.0
        self._meter.start(self.state)

    def _end(self, portion: Portion) -> None:
        """Save, then end before the run does: for a signal, or because a rank has no data to go on with."""
        self._save(needed=True)
        self._finish_saving()
        if portion.stop_for:
            _LOG.warning("stopped after step %d; the same command goes on from there", self.state.step)
            raise Interrupted(portion.stop_for)
        if portion.error is not None:
            raise portion.error
        said = "; ".join(f"rank {rank}: {reason}" for rank, reason in self.world.told().items())
        raise RankLostError(f"another rank cannot go on after step {self.state.step}: {said}")

    def _roll_back(self, error: NotFiniteError) -> None:
        """Go back to the newest checkpoint, and on with the data that comes now."""
        self._store.finish()
        path = self._store.latest()
        self._rollbacks += 1
        if path is None or self._rollbacks > self.config.max_nan:
            raise error
        cursor, step = self.state.cursor, self.state.step
        self.state, pending = self._snapshot.restore(path)
        self.state.cursor = cursor
        self._ledger.forget(pending)
        self._begin_record()
        if self._tracker is not None:
            self._tracker.rewind(self.state.step)
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
        self._norm = self._updater.step(self._lr, measure=self._due(c.log_every_steps))
        self._freezer.after(begun)
        if self._average is not None:
            self._average.update(state.step - 1)
        self._ledger.add(values, list(totals.values()))

    def _after_step(self) -> None:
        c = self.config
        self._display.advance(self.progress)
        if self._due(c.log_every_steps):
            self._log()
        before = time.perf_counter()
        if self._due(c.eval_every_steps):
            self._evaluate()
        if self._due(c.pictures_every_steps):
            self._draw()
        if self._due(c.save_every_steps):
            self._save()
        self._mark += time.perf_counter() - before  # so that tokens per second are those of training

    def _due(self, every: int | None) -> bool:
        """Whether something that is done every so many steps, and at the end, is done now."""
        return self.progress >= self.config.length or (every is not None and self.state.step % every == 0)

    def _read_losses(self) -> None:
        """Fetch the losses of the steps since the last time; every rank at the same step."""
        try:
            self._ledger.read(self.state.step)
        except NotFiniteError as error:
            try:
                last = self._store.latest()
                kept = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
            except CheckpointError as problem:
                kept = str(problem)
            raise NotFiniteError(
                f"{error}. {kept}; the same command goes on from there. Set a smaller train.optimizer.lr (peak now "
                f"{self.config.peak_lr:g}), train.optimizer.clip_grad=1, a longer warm-up or train.precision=fp32, "
                "or check the data"
            ) from None

    def _log(self) -> None:
        self._read_losses()
        record = self._ledger.record()
        now = time.perf_counter()
        seconds, tokens = max(now - self._mark, 1e-9), self.state.tokens
        if self._norm is not None:
            record["grad_norm"] = float(self._norm)
        record |= {"lr": self._lr, "tokens": tokens}
        record |= {
            "tokens_per_second": (tokens - self._marked_tokens) / seconds,
            "data_wait": self._feed.waited / seconds,
        }
        self._mark, self._marked_tokens, self._feed.waited = now, tokens, 0.0
        self._display.record(self.state.step, self.progress, record)
        if self._tracker is not None:
            figures = self._meter.figures(self.state, record["tokens_per_second"])
            self._tracker.write("train", self.state.step, record | figures)

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
        state = self.state
        state.evaluated(metrics, self.config.best_metric)
        if self._tracker is not None:
            self._tracker.write("eval", state.step, {"tokens": state.tokens, **metrics})
            shown = "  ".join(f"{k} {v:.4g}" for k, v in list(metrics.items())[:8])
            _LOG.info("evaluation at step %d: %s", state.step, shown)

    def _draw(self) -> None:
        if self.pictures is not None:
            with self._as_exported():
                if self._tracker is not None:
                    self._tracker.pictures(self.state.step, self.pictures(self.state.step))

    def _finish(self) -> None:
        """Export the finished model and mark the run as complete; evaluated and saved it is already."""
        self._finish_saving()
        if self.export is not None:
            export = self.export
            with self._as_exported():
                self.world.on_main(lambda: write_folder(self.output / "model", lambda path: export(self.model, path)))
        self.world.on_main(lambda: mark_complete(self.output, self.state, self.config))

    def _save(self, needed: bool = False) -> None:
        """Save a checkpoint; `needed`: the run ends here, so that it must not fail."""
        self._read_losses()
        if self._tracker is not None:
            self._tracker.sync()
        needed = needed or self.progress >= self.config.length
        may_fail = self.config.on_failed_save == "continue"
        try:
            self._finish_saving()
        except CheckpointError as error:
            if not (needed or may_fail):
                raise
            self._snapshot.saved_step = -1  # it may have been this step's
            _LOG.warning("%s. %s", error, "The present state is saved now" if needed else _GOES_ON)
        try:
            with self._watch.over("busy with a checkpoint"):
                self._snapshot.save(self.state, self._ledger.pending)
            self._rollbacks = 0
        except CheckpointError as error:
            if needed or not may_fail:
                raise
            _LOG.warning("%s. %s", error, _GOES_ON)

    def _finish_saving(self) -> None:
        """Wait for the checkpoint that is written in the background, if there is one."""
        with self._watch.over("busy with a checkpoint"):
            self._store.finish()
