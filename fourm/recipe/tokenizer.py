"""Put a tokenizer recipe together and train it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from fourm.config import to_dict
from fourm.modality import ModalitySet
from fourm.recipe.build import is_complete
from fourm.recipe.job import TrainingJob, train_config
from fourm.recipe.schema import ReconstructionPictureConfig, TokenizerRecipe
from fourm.registry import implementation
from fourm.rng import generator, torch_seed
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.teachers import build_teacher
from fourm.train.checkpoint import recipe_differences
from fourm.train.distributed import session

if TYPE_CHECKING:
    from PIL.Image import Image

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
    with session(config.device, config.threads, timeout_minutes=config.timeout_minutes) as world:
        model = build_tokenizer(recipe)
        _start(model, recipe)
        teacher = build_teacher(modality, recipe.tokenizer.teacher, resolutions=recipe.data.resolutions)
        objective = implementation(recipe.objective.target)(
            recipe.objective, modality, model.num_tokens, teacher,
            given=model.given, has_codes=model.has_codes, sizes=model.sizes,
        )  # fmt: skip
        job = TrainingJob(recipe, world, ModalitySet([modality, *model.given]), objective)
        job.fit(
            model,
            lambda trained, path: trained.save(path),
            pictures=_pictures(job, recipe.pictures, model),
            statistics=lambda: {f"codebook/{name}": value for name, value in model.usage().items()},
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
        return implementation(recipe.tokenizer.target)(recipe.raw_modality(), recipe.tokenizer)


def _pictures(
    job: TrainingJob, config: ReconstructionPictureConfig, model: Any
) -> Callable[[int], dict[str, Image]] | None:
    """Draws what the tokenizer makes of the first validation samples; None where there is nothing to draw."""
    if not config.num_samples or not job.validation:
        return None
    dataset, objective, seed = job.validation[0], job.objective, job.recipe.seed

    def draw(step: int) -> dict[str, Image]:
        from fourm.tokenizers.pictures import reconstructions

        streams = [(n, generator(seed, "pictures", n)) for n in range(min(config.num_samples, len(dataset)))]
        batch = objective.collate([objective.prepare(dataset.sample(n, rng), rng) for n, rng in streams])
        batch = batch.to(job.world.device)
        teacher = objective.frozen.get("teacher")
        inputs = batch.images if teacher is None else teacher(batch.images)
        return {"reconstructions": reconstructions(model, inputs, batch.seeds, config.num_steps, batch.given)}

    return draw
