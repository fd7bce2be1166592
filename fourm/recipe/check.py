"""`--check`: build a pretraining recipe on the meta device and say what it costs, without data, weights or memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fourm.machine import GPUS
from fourm.modality import Modality
from fourm.objectives.distill_config import DistillConfig
from fourm.recipe.cost import BACKWARD, forward_flops, peak_activation_bytes
from fourm.recipe.encoders import adopt_vocabulary
from fourm.recipe.machines import Machines
from fourm.recipe.pretrain import build_objective, with_lora
from fourm.recipe.schema import TEXT, PretrainRecipe
from fourm.recipe.synthetic import synthetic
from fourm.registry import implementation
from fourm.rng import generator
from fourm.tokenizers.text import TextTokenizer
from fourm.train.configs import TrainConfig
from fourm.train.optimizer import parameter_groups, select_trainable

_NUMBER = 4  # bytes of float32
_HALVED = 0.5  # activations in bfloat16 with fused attention, beside those in float32 with plain attention
_SAMPLES = (2, 4)  # of the two batches that tell what a sample needs apart from what every batch does
_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Cost:
    """What a recipe costs.

    Args:
        parameters: part of the model -> number of parameters.
        forward_flops: part of the model -> operations of a forward pass of the whole batch.
        batch_size: samples per step.
        tokens_per_step: input and target tokens by their budgets.
        num_steps: optimizer steps of the run.
        peak_lr: largest learning rate.
        state_bytes: weights, their averages, and gradients and optimizer state of those trained, in float32.
        sample_bytes: what one sample of a batch needs beside that, in float32 with plain attention.
        fixed_bytes: what a batch of any size needs beside that.
        recomputed: parts whose forward pass is done a second time (activation checkpointing).
        micro_batches: batches that a GPU passes one after the other for a step.
        sharded: whether the state is spread over the GPUs (FSDP2), instead of one copy for each (DDP).
        shard_ranks: GPUs that the state is spread over where it is sharded; None: all.
        notes: what the figures rest on.
    """

    parameters: dict[str, int]
    forward_flops: dict[str, int]
    batch_size: int
    tokens_per_step: int
    num_steps: int
    peak_lr: float
    state_bytes: int
    sample_bytes: int
    fixed_bytes: int = 0
    recomputed: tuple[str, ...] = ()
    micro_batches: int = 1
    sharded: bool = False
    shard_ranks: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def flops_per_step(self) -> int:
        """Operations that the model itself asks for in a step, forward and backward, of the whole batch."""
        return (1 + BACKWARD) * sum(self.forward_flops.values())

    @property
    def executed_flops_per_step(self) -> int:
        """The same with what activation checkpointing computes again."""
        return self.flops_per_step + sum(self.forward_flops.get(part, 0) for part in self.recomputed)

    def days(self, on: Machines) -> float:
        """How long the whole run takes."""
        speed = on.count * GPUS[on.kind].tflops * 1e12 * on.utilisation
        return self.executed_flops_per_step * self.num_steps / speed / _DAY

    def bytes_per_gpu(self, on: Machines, *, sharded: bool | None = None) -> int:
        """Expected memory of one GPU in bfloat16 with fused attention; `sharded`: other than the recipe has it."""
        samples = -(-self.batch_size // (on.count * self.micro_batches))
        activations = _HALVED * (self.fixed_bytes + samples * self.sample_bytes)
        ranks = min(on.count, self.shard_ranks or on.count) if (self.sharded if sharded is None else sharded) else 1
        return round(self.state_bytes / ranks + activations)

    def lines(self, on: Machines | None = None) -> list[str]:
        """The cost in words.

        Args:
            on: machines to say memory and days for.
        """
        total = sum(self.parameters.values())
        parts = [f"  {name.replace('_', ' '):<22}{count / 1e6:10.2f} M" for name, count in self.parameters.items()]
        flops = [f"  {name.replace('_', ' '):<22}{n / self.batch_size:10.3e}" for name, n in self.forward_flops.items()]
        return [
            f"parameters            {total / 1e6:12.2f} M",
            *parts,
            f"tokens per step       {self.tokens_per_step:12,}",
            f"samples per step      {self.batch_size:12,}",
            f"steps                 {self.num_steps:12,}",
            f"peak learning rate    {self.peak_lr:12.3g}",
            f"FLOPs per step        {self.flops_per_step:12.3e}  forward and backward",
            *((f"  with recomputation  {self.executed_flops_per_step:12.3e}",) if self.recomputed else ()),
            f"FLOPs per sample      {sum(self.forward_flops.values()) / self.batch_size:12.3e}  forward",
            *flops,
            f"training state        {self.state_bytes / 2**30:12.2f} GiB (float32 weights, gradients, optimizer state)",
            f"memory per sample     {self.sample_bytes / 2**20:12.1f} MiB (activations in float32, plain attention)",
            *(self._plan(on) if on is not None else ()),
            *self.notes,
        ]

    def _plan(self, on: Machines) -> list[str]:
        whole, shared = (self.bytes_per_gpu(on, sharded=sharded) / 2**30 for sharded in (False, True))
        most = GPUS[on.kind].memory_gib
        own = shared if self.sharded else whole
        fits = "" if own < most else "; replicas do not fit" if shared < most else "; more micro-batches are needed"
        return [
            f"on {on.count} x {on.kind}",
            f"  memory of each      {whole:12.1f} GiB, {shared:.1f} with sharded state, of {most} (bfloat16){fits}",
            f"  days                {self.days(on):12.2f} at {100 * on.utilisation:.0f} % of the peak",
        ]


def check(recipe: PretrainRecipe) -> Cost:
    """Build everything on the meta device, run a training step of a few samples, and scale it to the batch.

    Raises:
        ConfigError: if the parts of the recipe do not fit one another.
        CheckpointError: if there is a text tokenizer, but a damaged one.
    """
    path = recipe.tokenizers.get(TEXT)
    text = TextTokenizer.load(path) if path is not None and path.exists() else None
    modalities = adopt_vocabulary(recipe.modality_set(), text)
    with torch.device("meta"):
        model = with_lora(recipe, implementation(recipe.model.target)(modalities, recipe.model))
    objective = build_objective(recipe, modalities, text)
    objective = getattr(objective, "of", objective)
    rng = generator(recipe.seed, "check")
    special = text.special if text else None
    items = [objective.prepare(synthetic(recipe, modalities, rng, special), rng) for _ in range(max(_SAMPLES))]
    needs = [_activations(model, objective, items[:count]) for count in _SAMPLES]
    per_sample = max(0, needs[1] - needs[0]) // (_SAMPLES[1] - _SAMPLES[0])
    batch = objective.collate(items)
    scale = recipe.train.batch_size / len(items)
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[name.partition(".")[0]] += parameter.numel()
    forward = forward_flops(model, objective, batch.to("meta"))
    tokens = int(objective.num_tokens(batch) * scale)
    return Cost(
        parameters=dict(parameters),
        forward_flops={name: int(count * scale) for name, count in forward.items()},
        batch_size=recipe.train.batch_size,
        tokens_per_step=tokens,
        num_steps=recipe.train.length if recipe.train.unit == "steps" else -(-recipe.train.length // tokens),
        peak_lr=recipe.train.peak_lr,
        state_bytes=_state_bytes(model, recipe.train),
        sample_bytes=per_sample,
        fixed_bytes=max(0, needs[0] - _SAMPLES[0] * per_sample),
        recomputed=("encoder", "decoder") if getattr(recipe.model, "activation_checkpointing", False) else (),
        micro_batches=recipe.train.accumulation,
        sharded=recipe.train.parallel.kind == "fsdp",
        shard_ranks=getattr(recipe.train.parallel, "shard_ranks", None),
        notes=_teacher(recipe)
        + tuple(_vocabulary(m, recipe, text) for m in modalities.values() if m.tokenizer == TEXT),
    )


def _state_bytes(model: nn.Module, config: TrainConfig) -> int:
    """Bytes of everything that has the form of the weights."""
    weights = sum(p.numel() for p in model.parameters())
    select_trainable(model, config.trainable, config.freeze)
    trained = sum(
        p.numel() * (2 if group["orthogonal"] else 3)  # gradient and one moment of Muon, or two of AdamW
        for group in parameter_groups(model, config.optimizer)
        for p in group["params"]
    )
    return _NUMBER * (weights + trained + (weights if config.ema_decay is not None else 0))


def _activations(model: Any, objective: Any, items: Sequence[Any]) -> int:
    """Bytes that a step of a few samples holds; every operation that would wait for the device raises here."""
    batch = objective.collate(items)
    counts = objective.counts(batch)
    return peak_activation_bytes(model, lambda: objective.loss(model, batch.to("meta")).scalar(counts))


def _teacher(recipe: PretrainRecipe) -> tuple[str, ...]:
    """What is left out where there is a teacher."""
    left_out = isinstance(recipe.objective, DistillConfig)
    return (f"teacher {recipe.objective.teacher}: its forward pass and weights are not counted",) if left_out else ()


def _vocabulary(m: Modality, recipe: PretrainRecipe, text: TextTokenizer | None) -> str:
    """Where the vocabulary of a text modality comes from."""
    path = recipe.tokenizers.get(TEXT)
    if text is not None:
        return f"{m.name}: text vocabulary of {m.vocab_size:,} from {path}"
    missing = f"{path} is not there yet" if path else f"tokenizers.{TEXT} is not named"
    return f"{m.name}: text vocabulary of {m.vocab_size:,} as declared, since {missing}"
