"""The training loop of every job; jobs differ by their objective, never by a Trainer of their own."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourm.errors import DataError, FourmError, TrainingError
from fourm.machine import use_bf16
from fourm.objectives.base import Objective
from fourm.rng import torch_seed
from fourm.train.checkpoint import CheckpointStore
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World, start
from fourm.train.ema import WeightAverage
from fourm.train.forward import LossModule
from fourm.train.ledger import LossLedger
from fourm.train.meter import Meter
from fourm.train.optimizer import Updater, build_optimizer, select_trainable
from fourm.train.progress import Progress
from fourm.train.publish import write_folder
from fourm.train.schedule import schedule_of
from fourm.train.signals import Interrupted, StopRequest
from fourm.train.snapshot import Snapshot
from fourm.train.state import RunState, completed_state, mark_complete
from fourm.train.tracking import Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)
Loader = Callable[[dict[str, Any] | None], Iterable[tuple[Any, dict[str, Any]]]]


class Trainer:
    """Trains a model on an objective, with exact losses over ranks and accumulation and an exact resume.

    Args:
        model: built, on any device; moved to the run's.
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
        export: Callable[[nn.Module, Path], None] | None = None,
        flops_per_sample: float | None = None,
    ) -> None:
        config.check()
        self.model, self.objective, self.loader, self.config = model, objective, loader, config
        self.world = world or start(config.device, config.threads)
        config.check(self.world.size)
        self.output = Path(output)
        self.evaluate, self.pictures, self.export = evaluate, pictures, export
        self.metadata = metadata or {}
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
            with StopRequest() as stop, Progress(c.unit, c.length, self.progress, shown=shown) as self._display:
                if self.progress < c.length:
                    self._run_until(stop)
                self._finish()
        except BaseException as error:
            if self._tracker is not None:
                self._tracker.ended(self.state.step, error)
            raise
        finally:
            if self._tracker is not None:
                self._tracker.close()
        return self.state

    def _prepare(self) -> None:
        """Place the model and build what hangs on its parameters."""
        c, world = self.config, self.world
        select_trainable(self.model, c.trainable, c.freeze)
        self.model.to(world.device).train()
        for module in self.objective.frozen.values():
            module.to(world.device).eval().requires_grad_(False)
        if c.compile:
            self.model.compile()
        optimizer = build_optimizer(self.model, c)
        self._updater = Updater(optimizer, c.optimizer.clip_grad, c.optimizer.skip_grad)
        self._average = WeightAverage(self.model, c.ema_decay) if c.ema_decay is not None else None
        module = LossModule(self.model, self.objective, world.device.type, use_bf16(c.precision, world.device))
        self._forward = world.data_parallel(module, find_unused=c.find_unused_parameters)
        self._ledger = LossLedger(self.objective.parts, c.log_every_steps, world)
        self._store = CheckpointStore(self.output / "checkpoints", world, c.keep_checkpoints)
        self._snapshot = Snapshot(self._store, self.model, optimizer, self._average, c, self.metadata)

    def _run_until(self, stop: StopRequest) -> None:
        """Run to the end, or to the request to stop."""
        try:
            self._run(stop)
        except RuntimeError as error:
            # A signal reaches the loader's processes too, and torch raises wherever this one is when they die: within a
            # step, which then may be half done.
            time.sleep(0.1)
            if isinstance(error, FourmError) or not stop.number:
                raise
            _LOG.warning("stopped within a step; the same command goes on from there, from the newest checkpoint")
            raise Interrupted(stop.number) from None

    def _run(self, stop: StopRequest) -> None:
        batches = iter(self.loader(self.state.cursor))
        self._mark, self._marked_tokens, self._waited = time.perf_counter(), self.state.tokens, 0.0
        self._meter.start(self.state)
        while self.progress < self.config.length:
            micro_batches = self._fetch(batches, stop)
            totals, tokens, number = self._agree(micro_batches, stop.number)
            if number:
                self._save()
                _LOG.warning("stopped after step %d; the same command goes on from there", self.state.step)
                raise Interrupted(number)
            self._step([batch for batch, _ in micro_batches], totals, tokens)
            self.state.cursor = micro_batches[-1][1]
            self._after_step()

    def _fetch(self, batches: Iterator[Any], stop: StopRequest) -> list[tuple[Any, dict[str, Any]]]:
        """The step's micro-batches; none if the run is to stop."""
        began = time.perf_counter()
        try:
            fetched = [] if stop.number else [next(batches) for _ in range(self.config.accumulation)]
        except StopIteration:
            raise DataError(
                f"the loader ended after step {self.state.step} ({self.state.tokens} tokens), before "
                f"train.max_{self.config.unit}={self.config.length}. A loader must go on with the next epoch"
            ) from None
        except (RuntimeError, DataError):
            time.sleep(0.1)  # loader processes may have died of a signal that is about to arrive here too
            if not stop.number:
                raise
            fetched = []
        self._waited += time.perf_counter() - began
        return fetched

    def _agree(self, micro_batches: list[tuple[Any, Any]], number: int) -> tuple[dict[str, float], int, int]:
        """Counts per part and tokens over all ranks and micro-batches, and the signal to stop for (0: none)."""
        counts = [self.objective.counts(batch) for batch, _ in micro_batches]
        values = [float(sum(c.get(part, 0.0) for c in counts)) for part in self.objective.parts]
        values += [float(sum(self.objective.num_tokens(batch) for batch, _ in micro_batches)), float(number > 0)]
        if self.world.size > 1:
            values = self.world.sum(torch.tensor(values, dtype=torch.float64)).tolist()
        *totals, tokens, stopping = values
        stop_for = (number or signal.SIGTERM) if stopping else 0
        return dict(zip(self.objective.parts, totals, strict=True)), int(tokens), int(stop_for)

    def _step(self, batches: list[Any], totals: dict[str, float], tokens: int) -> None:
        """One optimizer step. Nothing here waits for the device."""
        c, state, world = self.config, self.state, self.world
        # Dropout and drop path draw from torch's generator; made a function of the step, it need not be saved.
        torch.manual_seed(torch_seed(c.seed, "train", state.step, world.rank))
        self._lr = self._schedule.lr(state.step, 1) if c.unit == "steps" else self._schedule.lr(state.tokens, tokens)
        values: Tensor | None = None
        for i, batch in enumerate(batches):
            alone = world.size > 1 and i < len(batches) - 1
            with self._forward.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                scalar, part = self._forward(batch.to(world.device, non_blocking=True), totals)
                # Data parallelism averages gradients over ranks; the loss is a sum over them.
                (scalar * world.size if world.size > 1 else scalar).backward()
            values = part if values is None else values + part
        assert values is not None
        state.step += 1
        state.tokens += tokens
        self._norm = self._updater.step(self._lr, measure=self._due(c.log_every_steps))
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
        except TrainingError as error:
            last = self._store.latest()
            kept = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
            raise TrainingError(
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
        record |= {"tokens_per_second": (tokens - self._marked_tokens) / seconds, "data_wait": self._waited / seconds}
        self._mark, self._marked_tokens, self._waited = now, tokens, 0.0
        self._display.record(self.state.step, self.progress, record)
        if self._tracker is not None:
            figures = self._meter.figures(self.state, record["tokens_per_second"])
            self._tracker.write("train", self.state.step, record | figures)

    @contextlib.contextmanager
    def _as_exported(self) -> Iterator[None]:
        """The model as it will be used: averaged weights, eval mode, no gradients."""
        with self._average.applied() if self._average else contextlib.nullcontext(), torch.no_grad():
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
        if self.pictures is not None and self._tracker is not None:
            with self._as_exported():
                self._tracker.pictures(self.state.step, self.pictures(self.state.step))

    def _finish(self) -> None:
        """Export the finished model and mark the run as complete; evaluated and saved it is already."""
        if self.export is not None:
            export = self.export
            with self._as_exported():
                self.world.on_main(lambda: write_folder(self.output / "model", lambda path: export(self.model, path)))
        self.world.on_main(lambda: mark_complete(self.output, self.state, self.config))

    def _save(self) -> None:
        self._read_losses()
        if self._tracker is not None:
            self._tracker.sync()
        self._snapshot.save(self.state, self._ledger.pending)
