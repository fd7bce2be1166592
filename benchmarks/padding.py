"""How much of a recipe's token tables is padding, and how much of it packed rows leave out, on made-up samples.

    python benchmarks/padding.py 4m_b --batch 128
    python benchmarks/padding.py 4m21_b --batch 64 objective.num_input_tokens=128 objective.num_target_tokens=128 --json

Every sample has all modalities. Captions are 8 to 31 tokens long and boxes 10 to 89; other sequences are an
eighth to a half of their longest.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from fourm import recipes
from fourm.modality import Modality, ModalitySet
from fourm.recipe.pretrain import build_objective
from fourm.recipe.schema import PretrainRecipe
from fourm.recipe.synthetic import synthetic_sample
from fourm.rng import generator

LENGTHS = {"caption": (8, 32), "det": (10, 90)}


def sample(modalities: ModalitySet, rng: np.random.Generator) -> dict[str, Any]:
    """A random sample with sequences of usual lengths."""
    full = synthetic_sample(modalities, rng)
    return {name: _cut(modalities[name], value, rng) for name, value in full.items()}


def _cut(modality: Modality, value: Any, rng: np.random.Generator) -> Any:
    if modality.is_grid or not modality.is_discrete:
        return value
    most = modality.num_tokens
    least, end = LENGTHS.get(modality.name, (max(4, most // 8), max(5, most // 2)))
    length = int(rng.integers(least, end))
    # Chunks hold about two tokens each.
    return value[: max(1, length // 2)] if isinstance(value, list) else value[:length]


def measure(name: str, overrides: list[str], batch: int, samples: int) -> dict[str, float]:
    """Shares of the tables of input and target tokens, means over batches."""
    recipe = recipes.load(name, PretrainRecipe, tuple(overrides), folder="pretrain")
    modalities = recipe.modality_set()
    objective = build_objective(recipe, modalities, None)
    rng = generator(recipe.seed, "padding")
    found: dict[str, list[float]] = {}
    for _ in range(-(-samples // batch)):
        example = objective.collate([objective.prepare(sample(modalities, rng), rng) for _ in range(batch)])
        for side, table in (("input", example.encoder), ("target", example.decoder)):
            size = table.modality.numel()
            found.setdefault(f"{side}_padding", []).append(1 - float(table.valid.sum()) / size)
            found.setdefault(f"{side}_left_out", []).append(max(0.0, 1 - table.attention.capacity / size))
    return {key: float(np.mean(values)) for key, values in found.items()}


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--batch", type=int, default=128, help="samples of one batch of one rank")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    figures = measure(options.recipe, options.overrides, options.batch, options.samples)
    if options.json:
        print(json.dumps(figures))
    else:
        for side in ("input", "target"):
            print(
                f"{side} tokens: {figures[f'{side}_padding']:.1%} of the table is padding; "
                f"packed rows leave out {figures[f'{side}_left_out']:.1%} of it"
            )


if __name__ == "__main__":
    main()
