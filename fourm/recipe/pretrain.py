"""Put a pretraining recipe together and run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from fourm import config as configs
from fourm.data.dataset import build_dataset, check_tokens
from fourm.data.loader import Loader, evaluate_batches
from fourm.data.mixture import build_mixture
from fourm.errors import ConfigError
from fourm.modality import ModalitySet
from fourm.models import folder as folders
from fourm.models.multimodal import Multimodal
from fourm.models.transplant import copy_weights
from fourm.objectives.base import Objective
from fourm.recipe.build import implementation, is_complete
from fourm.recipe.bundle import Bundle
from fourm.recipe.encoders import adopt_vocabulary, load_text_tokenizer, text_encoders
from fourm.recipe.evaluation import MeanLoss
from fourm.recipe.schema import TEXT, PretrainRecipe
from fourm.tokenizers.base import Tokenizer, load_tokenizer
from fourm.train.distributed import World, session
from fourm.train.trainer import Trainer

if TYPE_CHECKING:
    from PIL.Image import Image


def run(recipe: PretrainRecipe) -> None:
    """Train the model of a recipe to the end, from its newest checkpoint if there is one.

    Raises:
        FourmError: whatever is wrong with recipe, data, checkpoint or loss, before or during training.
    """
    if is_complete(recipe):
        return
    text = load_text_tokenizer(recipe.tokenizers)
    modalities = adopt_vocabulary(recipe.modality_set(), text)
    tokenizers = {name: load_tokenizer(path) for name, path in recipe.tokenizers.items() if name != TEXT}
    config = replace(recipe.train, seed=recipe.seed)
    with session(config.device, config.threads) as world:
        encoders = text_encoders(modalities, text)
        objective = implementation(recipe.objective)(recipe.objective, modalities, text.special if text else None)
        mixture = build_mixture(recipe.data.train, modalities, encoders)
        _check_tokens(recipe, modalities, tokenizers)
        model = build_model(recipe, modalities, tokenizers)

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

        bundle = Bundle(model, tokenizers, text)
        Trainer(
            model,
            objective,
            loader,
            config,
            output=recipe.output,
            world=world,
            evaluate=_evaluation(recipe, modalities, encoders, objective, model, world),
            pictures=_pictures(recipe, modalities, encoders, bundle),
            metadata={"recipe": configs.to_dict(recipe)},
            export=lambda trained, path: folders.save_model(trained, path, recipe.tokenizers),  # type: ignore[arg-type]
        ).fit()


def build_model(recipe: PretrainRecipe, modalities: ModalitySet, tokenizers: dict[str, Tokenizer]) -> Multimodal:
    """The model of a recipe with its initial weights."""
    model = Multimodal(modalities, recipe.model, recipe.seed)
    if recipe.model.codebook_init:
        codebooks = {
            name: t.codebook for name, t in tokenizers.items() if name in modalities and t.codebook is not None
        }
        if not codebooks:
            raise ConfigError("model.codebook_init needs tokenizers with a codebook under `tokenizers:`")
        model.fill_from_codebooks(codebooks, recipe.seed)
    if recipe.init_from is not None:
        copy_weights(folders.load_model(recipe.init_from), model)
    return model


def _check_tokens(recipe: PretrainRecipe, modalities: ModalitySet, tokenizers: dict[str, Tokenizer]) -> None:
    """Tokens on disk must come from the tokenizers the recipe names, and those must fit the modalities."""
    for name, tokenizer in tokenizers.items():
        modality = modalities[name]
        if tokenizer.vocab_size != modality.vocab_size:
            raise ConfigError(
                f"tokenizers.{name}: {recipe.tokenizers[name]} has {tokenizer.vocab_size} codes, but the modality "
                f"declares a vocabulary of {modality.vocab_size}; correct modalities.{name}.content.vocab_size"
            )
    hashes = {name: tokenizer.hash for name, tokenizer in tokenizers.items()}
    for mixture in (recipe.data.train, recipe.data.val):
        for name, dataset in mixture.datasets.items():
            check_tokens(name, dataset, modalities, hashes)


def _evaluation(
    recipe: PretrainRecipe,
    modalities: ModalitySet,
    encoders: dict[str, Any],
    objective: Objective,
    model: nn.Module,
    world: World,
) -> Callable[[], dict[str, float]] | None:
    datasets = [build_dataset(name, c, modalities, encoders) for name, c in recipe.data.val.datasets.items()]
    if not datasets:
        return None

    def evaluate() -> dict[str, float]:
        loss = MeanLoss(objective, world, bf16=recipe.train.precision == "bf16")
        for dataset in datasets:
            batches = evaluate_batches(
                dataset,
                objective.prepare,
                objective.collate,
                batch_size=recipe.evaluation.batch_size,
                rank=world.rank,
                world_size=world.size,
                num_workers=recipe.data.num_workers,
                seed=recipe.seed,
                max_samples=recipe.evaluation.max_samples,
            )
            for batch in batches:
                loss.add(model, batch)
        return loss.result()

    return evaluate


def _pictures(
    recipe: PretrainRecipe, modalities: ModalitySet, encoders: dict[str, Any], bundle: Bundle
) -> Callable[[int], dict[str, Image]] | None:
    if not recipe.pictures.given or not recipe.data.val.datasets:
        return None
    from fourm.generate.pictures import sample_pictures

    name, config = next(iter(recipe.data.val.datasets.items()))
    dataset = build_dataset(name, config, modalities, encoders)

    def draw(step: int) -> dict[str, Image]:
        return sample_pictures(
            bundle, dataset, recipe.pictures.given, recipe.pictures.targets, recipe.pictures.num_samples, recipe.seed
        )

    return draw
