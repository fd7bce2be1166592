"""`--check`: build a pretraining recipe on the meta device and say what it costs, without data, weights or memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fourm.modality import Continuous, Modality, ModalitySet
from fourm.recipe.encoders import adopt_vocabulary
from fourm.recipe.pretrain import build_objective
from fourm.recipe.schema import TEXT, PretrainRecipe
from fourm.registry import implementation
from fourm.rng import generator
from fourm.tokenizers.text import TextTokenizer
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
        notes: what the figures rest on.
    """

    parameters: dict[str, int]
    flops_per_step: int
    tokens_per_step: int
    state_bytes: int
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The cost in words."""
        total = sum(self.parameters.values())
        parts = [f"  {name.replace('_', ' '):<22}{count / 1e6:10.2f} M" for name, count in self.parameters.items()]
        return [
            f"parameters            {total / 1e6:12.2f} M",
            *parts,
            f"tokens per step       {self.tokens_per_step:12,}",
            f"FLOPs per step        {self.flops_per_step:12.3e}",
            f"training state        {self.state_bytes / 2**30:12.2f} GiB (float32 weights, gradients, AdamW moments)",
            *self.notes,
        ]


def synthetic_sample(
    modalities: ModalitySet, rng: np.random.Generator, special: SpecialIds | None = None
) -> dict[str, Any]:
    """A random sample of every modality, in the form the data hands over."""
    return {m.name: _synthetic(m, rng, special or SpecialIds()) for m in modalities.values()}


def _synthetic(m: Modality, rng: np.random.Generator, special: SpecialIds) -> Any:
    if m.is_grid and m.is_discrete:
        return rng.integers(0, m.vocab_size, m.num_tokens)
    if m.is_grid:
        return rng.standard_normal((m.channels or 1, *m.grid.image_size), dtype=np.float32)
    if isinstance(m.content, Continuous):
        return rng.standard_normal((m.num_tokens, m.content.dim), dtype=np.float32)
    tokens = rng.integers(special.sentinel(special.num_sentinels), m.vocab_size, max(m.num_tokens - 1, 1))
    return np.array_split(tokens, max(len(tokens) // 2, 1)) if m.unit == "chunk" else tokens


def check(recipe: PretrainRecipe) -> Cost:
    """Build everything on the meta device, run one training step of one sample, and scale it to the batch.

    Raises:
        ConfigError: if the parts of the recipe do not fit one another.
        CheckpointError: if there is a text tokenizer, but a damaged one.
    """
    path = recipe.tokenizers.get(TEXT)
    text = TextTokenizer.load(path) if path is not None and path.exists() else None
    modalities = adopt_vocabulary(recipe.modality_set(), text)
    with torch.device("meta"):
        model = implementation(recipe.model.target)(modalities, recipe.model)
    objective = build_objective(recipe, modalities, text)
    rng = generator(recipe.seed, "check")
    num_samples = 4
    special = text.special if text else None
    items = [objective.prepare(synthetic_sample(modalities, rng, special), rng) for _ in range(num_samples)]
    batch = objective.collate(items)
    counts = objective.counts(batch)
    with FlopCounterMode(display=False) as counter:
        objective.loss(model, batch.to("meta")).scalar(counts).backward()
    scale = recipe.train.batch_size / num_samples
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[name.partition(".")[0]] += parameter.numel()
    return Cost(
        parameters=dict(parameters),
        flops_per_step=int(counter.get_total_flops() * scale),
        tokens_per_step=int(objective.num_tokens(batch) * scale),
        state_bytes=_BYTES_PER_PARAMETER * sum(parameters.values()),
        notes=tuple(_vocabulary(m, recipe, text) for m in modalities.values() if m.tokenizer == TEXT),
    )


def _vocabulary(m: Modality, recipe: PretrainRecipe, text: TextTokenizer | None) -> str:
    """Where the vocabulary of a text modality comes from."""
    path = recipe.tokenizers.get(TEXT)
    if text is not None:
        return f"{m.name}: text vocabulary of {m.vocab_size:,} from {path}"
    missing = f"{path} is not there yet" if path else f"tokenizers.{TEXT} is not named"
    return f"{m.name}: text vocabulary of {m.vocab_size:,} as declared, since {missing}"
