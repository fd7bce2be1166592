"""Put a tokenizer recipe together and train it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from fourm.config import to_dict
from fourm.modality import ModalitySet
from fourm.recipe.build import implementation, is_complete
from fourm.recipe.job import TrainingJob, train_config
from fourm.recipe.schema import TokenizerRecipe
from fourm.rng import torch_seed
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.teachers import build_teacher
from fourm.train.checkpoint import recipe_differences
from fourm.train.distributed import session

_LOG = logging.getLogger(__name__)


def run(recipe: TokenizerRecipe) -> None:
    """Train the tokenizer of a recipe to the end, from its newest checkpoint if there is one.

    Raises:
        FourmError: whatever is wrong with recipe, data, checkpoint or loss, before or during training.
    """
    if is_complete(recipe):
        return
    modality = recipe.raw_modality()
    config = train_config(recipe)
    with session(config.device, config.threads) as world:
        model = build_tokenizer(recipe)
        _start(model, recipe)
        teacher = build_teacher(modality, recipe.tokenizer.teacher, resolutions=recipe.data.resolutions)
        objective = implementation(recipe.objective)(recipe.objective, modality, model.grid.num_tokens, teacher)
        job = TrainingJob(recipe, world, ModalitySet([modality]), objective)
        job.fit(
            model,
            lambda trained, path: trained.save(path),
            statistics=lambda: {f"codebook/{name}": float(value) for name, value in model.quantizer.usage().items()},
        )


def _start(model: Any, recipe: TokenizerRecipe) -> None:
    """Take up the weights the recipe starts from, if any."""
    if recipe.encoder_from is not None:
        model.adopt_encoder(load_tokenizer(recipe.encoder_from))
    if recipe.init_from is not None:
        source = load_tokenizer(recipe.init_from)
        model.adopt(source)
        changes = recipe_differences(to_dict(source.config), to_dict(model.config), "tokenizer")
        if changes:
            _LOG.warning(
                "the tokenizer in %s was trained with other settings: %s", recipe.init_from, "; ".join(changes)
            )


def build_tokenizer(recipe: TokenizerRecipe) -> Any:
    """The untrained tokenizer of a recipe; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(recipe.seed, "weights"))
        return implementation(recipe.tokenizer)(recipe.raw_modality(), recipe.tokenizer)
