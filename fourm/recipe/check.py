"""`--check`: build a pretraining recipe on the meta device and say what it costs, without data, weights or memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fourm.modality import Continuous, Modality, ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.objectives.masked import Masked
from fourm.recipe.schema import PretrainRecipe
from fourm.rng import generator
from fourm.tokens import SpecialIds

_BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two AdamW moments


@dataclass(frozen=True)
class Cost:
    """What a recipe costs.

    Args:
        parameters: part of the model -> number of parameters.
        flops_per_step: forward and backward, of the whole batch.
        tokens_per_step: input and target tokens by their budgets.
        state_bytes: weights, gradients and optimizer state in float32.
    """

    parameters: dict[str, int]
    flops_per_step: int
    tokens_per_step: int
    state_bytes: int

    def lines(self) -> list[str]:
        """The cost in words."""
        total = sum(self.parameters.values())
        parts = [f"  {name:<22}{count / 1e6:10.2f} M" for name, count in self.parameters.items()]
        return [
            f"parameters            {total / 1e6:12.2f} M",
            *parts,
            f"tokens per step       {self.tokens_per_step:12,}",
            f"FLOPs per step        {self.flops_per_step:12.3e}",
            f"training state        {self.state_bytes / 2**30:12.2f} GiB (float32 weights, gradients, AdamW moments)",
        ]


def synthetic_sample(modalities: ModalitySet, rng: np.random.Generator) -> dict[str, Any]:
    """A random sample of every modality, in the form the data hands over."""
    return {m.name: _synthetic(m, rng) for m in modalities.values()}


def _synthetic(m: Modality, rng: np.random.Generator) -> Any:
    if m.is_grid and m.is_discrete:
        return rng.integers(0, m.vocab_size, m.num_tokens)
    if m.is_grid:
        return rng.standard_normal((m.channels or 1, *m.grid.image_size), dtype=np.float32)
    if isinstance(m.content, Continuous):
        return rng.standard_normal((m.num_tokens, m.content.dim), dtype=np.float32)
    tokens = rng.integers(SpecialIds().sentinel(SpecialIds().num_sentinels), m.vocab_size, max(m.num_tokens - 1, 1))
    return np.array_split(tokens, max(len(tokens) // 2, 1)) if m.unit == "chunk" else tokens


def check(recipe: PretrainRecipe) -> Cost:
    """Build everything on the meta device, run one training step of one sample, and scale it to the batch.

    Raises:
        ConfigError: if the parts of the recipe do not fit one another.
    """
    modalities = recipe.modality_set()
    with torch.device("meta"):
        model = Multimodal(modalities, recipe.model)
    objective = Masked(recipe.objective, modalities)
    rng = generator(recipe.seed, "check")
    num_samples = 4
    items = [objective.prepare(synthetic_sample(modalities, rng), rng) for _ in range(num_samples)]
    batch = objective.collate(items)
    counts = objective.counts(batch)
    with FlopCounterMode(display=False) as counter:
        objective.loss(model, batch.to("meta")).scalar(counts).backward()
    scale = recipe.train.batch_size / num_samples
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in _parts(model).items()}
    parameters["other"] = sum(p.numel() for p in model.parameters()) - sum(parameters.values())
    budget = recipe.objective.num_input_tokens + recipe.objective.num_target_tokens
    return Cost(
        parameters={name: count for name, count in parameters.items() if count},
        flops_per_step=int(counter.get_total_flops() * scale),
        tokens_per_step=budget * recipe.train.batch_size,
        state_bytes=_BYTES_PER_PARAMETER * sum(parameters.values()),
    )


def _parts(model: Multimodal) -> dict[str, torch.nn.Module]:
    parts: dict[str, torch.nn.Module] = {
        "encoder": model.encoder,
        "decoder": model.decoder,
        "context projection": model.context_projection,
        "input embeddings": model.input_embedder,
        "heads": model.heads,
    }
    if not model.config.tie_heads:
        parts["target embeddings"] = model.target_embedder.table
    return parts
