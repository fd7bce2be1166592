"""Put a pretraining recipe together and run it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fourm.data.dataset import check_tokens
from fourm.errors import ConfigError
from fourm.machine import peak_tflops
from fourm.modality import ModalitySet
from fourm.models import folder as folders
from fourm.models.contrastive import Contrastive
from fourm.models.transplant import copy_weights
from fourm.nn.lora import add_lora
from fourm.objectives.asking import Asking
from fourm.objectives.contrastive import ContrastiveObjective
from fourm.objectives.distill import Distill
from fourm.objectives.distill_config import DistillConfig, asking
from fourm.objectives.masked import Masked
from fourm.recipe.build import is_complete
from fourm.recipe.bundle import Bundle, load_model
from fourm.recipe.cost import flops_per_sample
from fourm.recipe.encoders import adopt_vocabulary, load_text_tokenizer, text_encoders
from fourm.recipe.export import find_checkpoint, load_checkpoint
from fourm.recipe.job import TrainingJob, train_config
from fourm.recipe.schema import TEXT, PictureConfig, PretrainRecipe
from fourm.registry import implementation
from fourm.tokenizers.base import Tokenizer, load_tokenizer
from fourm.tokenizers.painting import check_painter
from fourm.tokenizers.text import TextTokenizer
from fourm.train.distributed import session

if TYPE_CHECKING:
    from PIL.Image import Image

_OWN_WEIGHTS = {"pretrained": False, "weights": None, "path": None}
"""Where towers find weights, and what it is without any."""


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
    objective = build_objective(recipe, modalities, text, teacher=True)
    encoders = text_encoders(modalities, text)
    hashes = _check_tokens(recipe, modalities, tokenizers)
    if text is not None:
        hashes[TEXT] = text.hash
    config = train_config(recipe)
    with session(config.device, config.threads, timeout_minutes=config.timeout_minutes) as world:
        job = TrainingJob(recipe, world, modalities, objective, encoders, hashes)
        # Sharded over ranks, the weights come from rank 0.
        with nullcontext() if world.is_main or config.parallel.kind == "ddp" else torch.device("meta"):
            model = build_model(recipe, modalities, tokenizers)
        job.fit(
            model,
            lambda trained, path: folders.save_model(trained, path, recipe.tokenizers, recipe.document_form),
            pictures=_pictures(job, recipe.pictures, Bundle(model, tokenizers, text)),
            flops_per_sample=_flops_per_sample(job, recipe),
        )


def _flops_per_sample(job: TrainingJob, recipe: PretrainRecipe) -> float | None:
    """What the model asks for per sample, where the share of the device's peak can be told."""
    known = job.config.peak_tflops or peak_tflops(job.world.device)
    return flops_per_sample(recipe, job.modalities, job.objective) if known and job.world.is_main else None


def build_objective(
    recipe: PretrainRecipe, modalities: ModalitySet, text: TextTokenizer | None, *, teacher: bool = False
) -> Any:
    """The objective of a recipe, checked against its data sets as far as that needs no data.

    Args:
        recipe: the recipe.
        modalities: those of the model.
        text: the text tokenizer.
        teacher: load the teacher of a distillation too, for training; without, it is left out.
    """
    kind, options = implementation(recipe.objective.target), dict[str, Any]()
    if getattr(recipe.model, "context", "full") == "ordered":
        if not issubclass(implementation(asking(recipe.objective).target), Masked):
            raise ConfigError("model.context ordered needs objective.kind masked, which shows what is given in blocks")
        options["ordered"] = True
    if teacher and isinstance(recipe.objective, DistillConfig):
        options["teacher"] = _source(recipe.objective.teacher)
    objective = kind(recipe.objective, modalities, text.special if text else None, **options)
    if isinstance(objective, Asking | Distill | ContrastiveObjective):
        objective.check_data(
            {n: d.modalities or modalities for n, d in recipe.data.train.datasets.items() if d.weight > 0},
            {n: d.modalities or modalities for n, d in recipe.data.val.datasets.items()},
        )
    return objective


def build_model(recipe: PretrainRecipe, modalities: ModalitySet, tokenizers: dict[str, Tokenizer]) -> Any:
    """The model of a recipe with its initial weights; without any on the meta device."""
    kind = implementation(recipe.model.target)
    if torch.get_default_device().type == "meta":
        return with_lora(recipe, kind(modalities, recipe.model, recipe.seed))
    source = None if recipe.init_from is None else _source(recipe.init_from)
    model = kind(modalities, recipe.model if source is None else _towers_alone(recipe.model, source), recipe.seed)
    model.config = recipe.model  # which says where towers came from
    if getattr(recipe.model, "code_dim", None) is not None:
        model.set_codes({n: t.codebook for n, t in tokenizers.items() if t.codebook is not None})
    if getattr(recipe.model, "codebook_init", False):
        codebooks = {
            name: t.codebook
            for name, t in tokenizers.items()
            if name in modalities and modalities[name].is_grid and t.codebook is not None
        }
        if not codebooks:
            raise ConfigError("model.codebook_init needs tokenizers with a codebook under `tokenizers:`")
        model.fill_from_codebooks(codebooks, recipe.seed)
    if source is not None and isinstance(model, Contrastive):
        model.start_from(source)
    elif source is not None:
        copy_weights(source, model)
    for name, feeder in getattr(recipe.model, "feeders", {}).items():
        if getattr(feeder, "from_tokenizer", False):
            take_encoder(model, name, tokenizers.get(name))
    return with_lora(recipe, model)


def _towers_alone(config: Any, source: Any) -> Any:
    """The config of a model without the weights that its towers come with, where a source has better ones."""
    known = getattr(getattr(source, "input_embedder", None), "feeders", {})
    feeders = dict(getattr(config, "feeders", {}))
    for name in feeders.keys() & set(known):
        tower: Any = getattr(feeders[name], "tower", None)
        own = {key: empty for key, empty in _OWN_WEIGHTS.items() if hasattr(tower, key)}
        if own:
            feeders[name] = replace(feeders[name], tower=replace(tower, **own))
    return replace(config, feeders=feeders) if feeders else config


def take_encoder(model: Any, name: str, tokenizer: Any) -> None:
    """Give the feeder of a modality the weights of its tokenizer (VL-GPT, Zhu et al. 2023, sec. 3.2).

    Raises:
        ConfigError: if there is no such tokenizer, or it has other networks.
    """
    encoder = getattr(tokenizer, "encoder", None)
    feeder = model.input_embedder.feeders[name]
    theirs = {} if encoder is None else encoder.state_dict()
    ours = {key: value for key, value in feeder.state_dict().items() if not key.startswith("projection.")}
    if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
        raise ConfigError(
            f"model.feeders.{name}.from_tokenizer takes the weights of tokenizers.{name}: expected there the folder of "
            "a detokenizer with the same tower and pooler, whose tokens have the same number and length"
        )
    feeder.load_state_dict(theirs, strict=False)


def with_lora(recipe: PretrainRecipe, model: Any) -> Any:
    """The model with the adapters of its recipe."""
    if recipe.lora is not None:
        add_lora(model, recipe.lora, recipe.seed, freeze=False)
    return model


def _source(path: Path) -> Any:
    """The model that a recipe starts from: a finished one, or a checkpoint of one that is not."""
    checkpoint = None if (path / "model").is_dir() else find_checkpoint(path)
    return load_model(path) if checkpoint is None else load_checkpoint(checkpoint)


def _check_tokens(recipe: PretrainRecipe, modalities: ModalitySet, tokenizers: dict[str, Tokenizer]) -> dict[str, str]:
    """The hashes of image tokenizers. Tokens on disk must come from them, and they must fit the modalities.

    What paints vectors has to paint those of its modality.
    """
    for name, tokenizer in tokenizers.items():
        if modalities[name].is_slots:
            check_painter(modalities[name], tokenizer, f"tokenizers.{name}: {recipe.tokenizers[name]}")
    whole = {n: t for n, t in tokenizers.items() if modalities[n].is_grid or modalities[n].decode == "tokens"}
    for name, tokenizer in whole.items():
        modality = modalities[name]
        # Rows of several images have special ids behind the codes.
        if tokenizer.vocab_size != modality.vocab_size and (
            modality.is_grid or tokenizer.vocab_size > modality.vocab_size
        ):
            raise ConfigError(
                f"tokenizers.{name}: {recipe.tokenizers[name]} has {tokenizer.vocab_size} codes, but the modality "
                f"declares a vocabulary of {modality.vocab_size}; correct modalities.{name}.content.vocab_size"
            )
        if not modality.is_grid:
            continue
        ours, theirs = ((grid.height, grid.width) for grid in (modality.grid, tokenizer.grid))
        if ours != theirs and math.prod(ours) == math.prod(theirs):
            raise ConfigError(
                f"tokenizers.{name}: {recipe.tokenizers[name]} makes grids of {theirs[0]} x {theirs[1]} tokens, but "
                f"the modality declares {ours[0]} x {ours[1]}; correct modalities.{name}.layout"
            )
    hashes = {name: tokenizer.hash for name, tokenizer in whole.items()}
    for mixture in (recipe.data.train, recipe.data.val):
        for name, dataset in mixture.datasets.items():
            check_tokens(name, dataset, modalities, hashes, recipe.data.cache)
    return hashes


def _pictures(job: TrainingJob, config: PictureConfig, bundle: Bundle) -> Callable[[int], dict[str, Image]] | None:
    tokenized = [m.name for m in job.modalities.outputs if m.is_grid and m.name in bundle.tokenizers]
    targets = config.targets or tokenized
    if not config.given or not targets or not job.validation:
        return None
    from fourm.generate.pictures import sample_pictures

    def draw(step: int) -> dict[str, Image]:
        return sample_pictures(bundle, job.validation[0], config.given, targets, config.num_samples, job.recipe.seed)

    return draw
