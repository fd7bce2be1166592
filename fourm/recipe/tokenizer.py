"""Put a tokenizer recipe together and train it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from fourm import config as configs
from fourm.data.dataset import build_dataset
from fourm.data.loader import Loader, evaluate_batches
from fourm.data.mixture import build_mixture
from fourm.modality import ModalitySet
from fourm.recipe.build import implementation, is_complete
from fourm.recipe.evaluation import MeanLoss
from fourm.recipe.schema import TokenizerRecipe
from fourm.rng import torch_seed
from fourm.train.distributed import session
from fourm.train.trainer import Trainer


def run(recipe: TokenizerRecipe) -> None:
    """Train the tokenizer of a recipe to the end, from its newest checkpoint if there is one.

    Raises:
        FourmError: whatever is wrong with recipe, data, checkpoint or loss, before or during training.
    """
    if is_complete(recipe):
        return
    modality = recipe.raw_modality()
    modalities = ModalitySet([modality])
    config = replace(recipe.train, seed=recipe.seed)
    with session(config.device, config.threads) as world:
        objective = implementation(recipe.objective)(recipe.objective, modality)
        model = build_tokenizer(recipe)
        mixture = build_mixture(recipe.data.train, modalities, {})
        validation = [build_dataset(name, c, modalities) for name, c in recipe.data.val.datasets.items()]

        def loader(cursor: dict[str, Any] | None) -> Iterable[tuple[Any, dict[str, Any]]]:
            return Loader(
                mixture,
                objective.prepare,
                objective.collate,
                batch_size=config.micro_batch_size(world.size),
                rank=world.rank,
                world_size=world.size,
                num_workers=recipe.data.num_workers,
                seed=recipe.seed,
                window=recipe.data.shuffle_window,
                start=cursor,
            )

        def evaluate() -> dict[str, float]:
            loss = MeanLoss(objective, world, bf16=config.precision == "bf16")
            for dataset in validation:
                for batch in evaluate_batches(
                    dataset,
                    objective.prepare,
                    objective.collate,
                    batch_size=recipe.evaluation.batch_size,
                    rank=world.rank,
                    world_size=world.size,
                    seed=recipe.seed,
                    max_samples=recipe.evaluation.max_samples,
                ):
                    loss.add(model, batch)
            return loss.result()

        Trainer(
            model,
            objective,
            loader,
            config,
            output=recipe.output,
            world=world,
            evaluate=evaluate if validation else None,
            metadata={"recipe": configs.to_dict(recipe)},
            export=lambda trained, path: trained.save(path),  # type: ignore[operator,arg-type]
        ).fit()


def build_tokenizer(recipe: TokenizerRecipe) -> Any:
    """The untrained tokenizer of a recipe; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(recipe.seed, "weights"))
        return implementation(recipe.tokenizer)(recipe.raw_modality(), recipe.tokenizer)
