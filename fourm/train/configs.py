"""What a recipe says about training (free of torch). Durations carry their unit in the name."""

from __future__ import annotations

import dataclasses
from typing import Literal

from fourm.errors import ConfigError
from fourm.machine import Precision
from fourm.ranges import check_range

Unit = Literal["steps", "tokens"]
DEFAULT_BASE_LR = 1e-4


@dataclasses.dataclass(frozen=True)
class ParameterRule:
    """Another learning rate or weight decay for the parameters whose name matches; the first matching rule counts.

    Args:
        match: shell pattern over full parameter names, for instance `encoder.blocks.*`.
        lr_scale: factor on the learning rate.
        weight_decay: instead of the optimizer's; None keeps it. A rule may decay norms and biases too.
    """

    match: str
    lr_scale: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        check_range(self, "lr_scale", "weight_decay", least=0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, and what happens to gradients before it.

    Args:
        kind: `muon` takes orthogonal steps (Jordan et al. 2024) with the weight matrices that `matrices` names, and
            AdamW's with all else.
        matrices: for `muon`, patterns of parameter names; those with two or more dimensions are meant.
        matrix_lr: for `muon`, peak learning rate of these matrices; it follows the schedule of `lr`.
        momentum: for `muon`.
        lr: peak learning rate. Give this or `base_lr`.
        base_lr: peak learning rate for 256 samples per step: lr = base_lr * batch_size / 256. 1e-4 if neither is given.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: of all weights, embeddings included, but of no norm and no bias.
        clip_grad: largest gradient norm; longer gradients are shortened to it.
        skip_grad: an update whose gradient norm is this large is left out: `spike.grad_norm` with `on_spike: skip`
            says the same. `on_nan` is for those that are not finite.
        fused: the fused kernel; None uses it wherever the device has one.
        rules: exceptions by parameter name.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    matrices: list[str] = dataclasses.field(default_factory=lambda: ["*blocks.*"])
    matrix_lr: float = 0.02
    momentum: float = 0.95
    lr: float | None = None
    base_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_grad: float | None = None
    skip_grad: float | None = None
    fused: bool | None = None
    rules: list[ParameterRule] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.lr is not None and self.base_lr is not None:
            raise ConfigError(
                f"lr={self.lr} and base_lr={self.base_lr} are both given; keep one (lr = base_lr * batch_size / 256)"
            )
        check_range(self, "lr", "base_lr", "matrix_lr", "clip_grad", "skip_grad", "eps", above=0)
        check_range(self, "betas", "momentum", least=0, below=1)
        check_range(self, "weight_decay", least=0)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run: linear warm-up, a shape, and a linear cool-down to `min_lr` at the very end.

    Give each length in the unit of the run (`max_steps` or `max_tokens`), or as a fraction of it.

    Args:
        kind: cosine falls to `min_lr` where the cool-down begins; inverse_sqrt is peak * sqrt(t / (t + x)), x being
            what is done after the warm-up; constant.
        warmup_steps, warmup_tokens, warmup_fraction: length of the warm-up.
        cooldown_steps, cooldown_tokens, cooldown_fraction: length of the cool-down.
        min_lr: end of the cosine and of the cool-down.
        timescale_steps, timescale_tokens: t of inverse_sqrt; the length of the warm-up when not given.
    """

    kind: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    warmup_fraction: float | None = None
    cooldown_steps: int | None = None
    cooldown_tokens: int | None = None
    cooldown_fraction: float | None = None
    min_lr: float = 0.0
    timescale_steps: int | None = None
    timescale_tokens: int | None = None

    def __post_init__(self) -> None:
        for part in ("warmup", "cooldown", "timescale"):
            given = [
                name
                for name in (f"{part}_steps", f"{part}_tokens", f"{part}_fraction")
                if getattr(self, name, None) is not None
            ]
            if len(given) > 1:
                raise ConfigError(f"{' and '.join(given)} are both given; keep one")
            check_range(self, *given, least=0)
        check_range(self, "warmup_fraction", "cooldown_fraction", most=1, least=0)
        check_range(self, "min_lr", least=0)


@dataclasses.dataclass(frozen=True)
class FreezeStage:
    """The beginning of a run in which less is trained, for instance the tables of new modalities alone.

    It costs as much as any other part of the run: gradients of what is frozen are dropped, not left out.

    Args:
        until_steps, until_tokens: where it ends, counted from the beginning of the run. Give one of them.
        trainable: patterns of parameter names; all others stay as they are.
        freeze: patterns of parameter names that stay as they are.
        freeze_modalities: modalities whose embeddings and heads stay as they are.
        lr_scale: factor on the learning rate.
    """

    until_steps: int | None = None
    until_tokens: int | None = None
    trainable: list[str] = dataclasses.field(default_factory=lambda: ["*"])
    freeze: list[str] = dataclasses.field(default_factory=list)
    freeze_modalities: list[str] = dataclasses.field(default_factory=list)
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        if (self.until_steps is None) == (self.until_tokens is None):
            raise ConfigError("a stage ends at `until_steps` or at `until_tokens`; give one of them")
        check_range(self, "until_steps", "until_tokens", least=1)
        check_range(self, "lr_scale", above=0)

    def holds(self, step: int, tokens: int) -> bool:
        """Whether a step that begins after so many steps and tokens belongs to it."""
        return step < self.until_steps if self.until_steps is not None else tokens < (self.until_tokens or 0)


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How several ranks share the model; one process alone holds all of it whatever is said here.

    Args:
        kind: `ddp`: every rank holds all weights. `fsdp`: each holds a part of the weights, gradients and optimizer
            state (FSDP2), and gathers a block's weights when it runs.
        shard_ranks: for `fsdp`, ranks that share one copy of the weights, for instance the GPUs of a machine (HSDP);
            null: all ranks. It divides their number.
        reshard_after_forward: for `fsdp`, free a block's weights after its forward pass and gather them again in the
            backward pass; false gathers them once and needs the memory.
        reduce: for `fsdp`, precision in which gradients are summed up over ranks.
    """

    kind: Literal["ddp", "fsdp"] = "ddp"
    shard_ranks: int | None = None
    reshard_after_forward: bool = True
    reduce: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        check_range(self, "shard_ranks", least=1)

    def check(self, world_size: int) -> None:
        """Whether the ranks can be divided so.

        Raises:
            ConfigError: if not.
        """
        if self.kind == "fsdp" and self.shard_ranks is not None and world_size > 1 and world_size % self.shard_ranks:
            raise ConfigError(
                f"train.parallel.shard_ranks is {self.shard_ranks}, which does not divide {world_size} ranks; give a "
                "divisor, such as the number of GPUs of a machine, or null"
            )


@dataclasses.dataclass(frozen=True)
class SpikeConfig:
    """Which steps are spikes: finite, and yet so far from the others that they do harm. Any of these; null: not so.

    Args:
        grad_norm: the gradient norm is this large.
        grad_ratio: the gradient norm is more than so many times the median of the `window` steps before.
        loss_ratio: the loss is more than so many times its median over them.
        window: steps that a median is taken over; until half of them are done, and again from the end of a stage of
            `train.stages` on, nothing is a spike by ratio.
    """

    grad_norm: float | None = None
    grad_ratio: float | None = None
    loss_ratio: float | None = None
    window: int = 128

    def __post_init__(self) -> None:
        check_range(self, "grad_norm", above=0)
        check_range(self, "grad_ratio", "loss_ratio", above=1)
        check_range(self, "window", least=2)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a job trains.

    Args:
        max_steps: length of the run in optimizer steps. Give this or `max_tokens`.
        max_tokens: length of the run in tokens, as the objective counts them (`Objective.num_tokens`), over all ranks.
        batch_size: samples per optimizer step, over all ranks and accumulation together. A rank draws micro-batches of
            batch_size / (ranks * accumulation).
        accumulation: micro-batches per step and rank; the losses are those of one large batch.
        precision: bf16 is autocast, weights stay float32; auto is bf16 where the device computes in it by itself, else
            fp32. With `parallel.kind: fsdp`, weights are gathered in it too.
        parallel: how several ranks share the model.
        seed: of dropout and drop path; step and rank are mixed in, so a resumed run draws the same.
        ema_decay: keep a running mean of the weights, used for evaluation, pictures and export. A codebook, which is
            one itself, is used as it is.
        trainable: patterns of parameter names; all others stay as they are.
        freeze: patterns of parameter names that stay as they are.
        freeze_modalities: modalities whose embeddings and heads stay as they are.
        stages: parts at the beginning of the run in which less is trained; the first that has not ended counts.
        on_nan: what to do where the loss or the gradient is not finite. `stop` ends the run, with the last good
            checkpoint. `skip` leaves out the update. `rollback` goes back to the last checkpoint and on with the data
            after the bad step.
        on_spike: the same for steps that `spike` or `optimizer.skip_grad` calls spikes.
        max_nan: steps skipped in a row, or rollbacks without a checkpoint in between, after which the run ends; for
            either reason.
        spike: which steps are spikes.
        on_failed_save: where a checkpoint cannot be written, for instance on a full disk: `stop` ends the run;
            `continue` warns, trains on and tries again at the next one. At the end of a run it is an error.
        timeout_minutes: a read, step or save that takes longer ends the process with status 75, with its reason, and
            so does a rank that waits as long for another; null: never.
        checkpoints: where they go, a folder or a URL that fsspec knows (`s3://bucket/run`); null: `checkpoints` in the
            output folder.
        save_in_background: copy the state to the host's memory, and write it while training goes on.
        eval_every_steps, save_every_steps, pictures_every_steps: null only at the end.
        log_every_steps: how often the losses are read from the device.
        keep_checkpoints: the newest so many are kept; null keeps all.
        resume: `auto` goes on from the newest complete checkpoint in the output folder, `never` wants a fresh folder.
        allow_changed_recipe: go on although the model part of the recipe or a tokenizer is not the checkpoint's.
        best_metric: name among the evaluation's results, the lowest value is remembered.
        find_unused_parameters: for DDP, when some parameters receive no gradient in some steps.
        threads: of the CPU per process; null shares the cores among the processes.
        peak_tflops: what one device can do, in 10^12 operations per second, for the utilisation in the log; null takes
            what is known of GPUs.
    """

    max_steps: int | None = None
    max_tokens: int | None = None
    batch_size: int = 256
    accumulation: int = 1
    precision: Precision = "auto"
    device: str = "auto"
    threads: int | None = None
    peak_tflops: float | None = None
    seed: int = 0
    compile: bool = False
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    ema_decay: float | None = None
    trainable: list[str] = dataclasses.field(default_factory=lambda: ["*"])
    freeze: list[str] = dataclasses.field(default_factory=list)
    freeze_modalities: list[str] = dataclasses.field(default_factory=list)
    stages: list[FreezeStage] = dataclasses.field(default_factory=list)
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    on_spike: Literal["stop", "skip", "rollback"] = "skip"
    max_nan: int = 10
    spike: SpikeConfig = dataclasses.field(default_factory=SpikeConfig)
    on_failed_save: Literal["stop", "continue"] = "stop"
    timeout_minutes: float | None = 30.0
    checkpoints: str | None = None
    save_in_background: bool = False
    eval_every_steps: int | None = None
    save_every_steps: int | None = None
    pictures_every_steps: int | None = None
    log_every_steps: int = 10
    keep_checkpoints: int | None = 2
    resume: Literal["auto", "never"] = "auto"
    allow_changed_recipe: bool = False
    best_metric: str = "loss"
    find_unused_parameters: bool = False
    tensorboard: bool = True
    wandb: bool = False
    wandb_project: str = "fourm"

    def __post_init__(self) -> None:
        check_range(self, "max_steps", "max_tokens", "batch_size", "accumulation", "threads", least=1)
        check_range(self, "log_every_steps", "eval_every_steps", "save_every_steps", "pictures_every_steps", least=1)
        check_range(self, "keep_checkpoints", "max_nan", least=1)
        check_range(self, "timeout_minutes", above=0)
        check_range(self, "ema_decay", above=0, below=1)
        check_range(self, "peak_tflops", above=0)

    @property
    def unit(self) -> Unit:
        """The unit the run's length is given in.

        Raises:
            ConfigError: unless exactly one of max_steps and max_tokens is given.
        """
        if (self.max_steps is None) == (self.max_tokens is None):
            state = "neither is" if self.max_steps is None else "both are"
            raise ConfigError(
                f"train.max_steps, train.max_tokens: {state} given; a run needs exactly one (set the other to null)"
            )
        return "steps" if self.max_tokens is None else "tokens"

    @property
    def grad_limit(self) -> float | None:
        """Gradient norm from which a step is a spike, by either of its keys."""
        return self.optimizer.skip_grad if self.spike.grad_norm is None else self.spike.grad_norm

    @property
    def knows_spikes(self) -> bool:
        """Whether anything says which steps are spikes."""
        return any(limit is not None for limit in (self.grad_limit, self.spike.grad_ratio, self.spike.loss_ratio))

    @property
    def length(self) -> int:
        """The run's length in its unit."""
        return int((self.max_steps if self.unit == "steps" else self.max_tokens) or 0)

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up."""
        if self.optimizer.lr is not None:
            return self.optimizer.lr
        return (self.optimizer.base_lr or DEFAULT_BASE_LR) * self.batch_size / 256

    def micro_batch_size(self, world_size: int = 1) -> int:
        """Samples in one batch of one rank.

        Raises:
            ConfigError: if batch_size does not divide by ranks and accumulation.
        """
        parts = world_size * self.accumulation
        if self.batch_size % parts:
            near = max(1, round(self.batch_size / parts)) * parts
            raise ConfigError(
                f"train.batch_size is {self.batch_size}, which does not divide by {world_size} ranks x "
                f"{self.accumulation} accumulation; the nearest that does is {near}"
            )
        return self.batch_size // parts

    def amount(self, part: Literal["warmup", "cooldown", "timescale"]) -> float | None:
        """Length of a part of the schedule in the run's unit; None when not given.

        Raises:
            ConfigError: if it is given in the other unit.
        """
        other = "tokens" if self.unit == "steps" else "steps"
        if getattr(self.schedule, f"{part}_{other}") is not None:
            raise ConfigError(
                f"train.schedule.{part}_{other} is in {other}, the run's length in {self.unit}: "
                f"give {part}_{self.unit}"
                + ("" if part == "timescale" else f" or {part}_fraction")
                + f" and set {part}_{other} to null"
            )
        fraction = getattr(self.schedule, f"{part}_fraction", None)
        return fraction * self.length if fraction is not None else getattr(self.schedule, f"{part}_{self.unit}")

    def check(self, world_size: int = 1) -> None:
        """Checks across fields, before any process group or data starts.

        Raises:
            ConfigError: naming the key and the remedy.
        """
        self.micro_batch_size(world_size)
        self.parallel.check(world_size)
        self._check_spikes()
        warmup, cooldown = self.amount("warmup") or 0, self.amount("cooldown") or 0
        self.amount("timescale")
        if warmup + cooldown > self.length:
            raise ConfigError(
                f"train.schedule: warm-up {warmup:g} and cool-down {cooldown:g} {self.unit} together exceed the run "
                f"(train.max_{self.unit}={self.length}); shorten them or use warmup_fraction"
            )
        if self.schedule.min_lr > self.peak_lr:
            raise ConfigError(
                f"train.schedule.min_lr is {self.schedule.min_lr:g}, above the peak learning rate {self.peak_lr:g}"
            )

    def _check_spikes(self) -> None:
        skip_grad = self.optimizer.skip_grad
        if skip_grad is not None and (self.on_spike != "skip" or self.spike.grad_norm is not None):
            raise ConfigError(
                f"train.optimizer.skip_grad={skip_grad:g} is train.spike.grad_norm with train.on_spike=skip; with "
                f"train.on_spike={self.on_spike} and train.spike.grad_norm={self.spike.grad_norm}, set it to null"
            )
        if self.on_spike != "skip" and not self.knows_spikes:
            raise ConfigError(
                f"train.on_spike is {self.on_spike}, but nothing says what a spike is; give train.spike.grad_ratio "
                "(such as 10), train.spike.loss_ratio or train.spike.grad_norm"
            )
