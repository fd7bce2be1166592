"""Put a fine-tuning recipe together and run it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.data.configs import DatasetConfig
from fourm.data.dataset import AlignedDataset, check_tokens
from fourm.data.paths import source_folder
from fourm.data.transforms import is_image
from fourm.errors import ConfigError, DataError
from fourm.evaluate.tasks import ClassificationScore, DepthScore, NormalsScore, SegmentationScore, TaskScore
from fourm.machine import use_bf16
from fourm.modality import ModalitySet
from fourm.objectives.mix import Mix
from fourm.objectives.supervised import LabelledBatch, Supervised
from fourm.objectives.supervised_configs import ClassificationConfig
from fourm.objectives.tasks import Classification, Depth, Segmentation, Task
from fourm.recipe.build import is_complete
from fourm.recipe.bundle import Bundle, load_bundle
from fourm.recipe.encoders import text_encoders
from fourm.recipe.finetune_network import build_network, with_layer_decay
from fourm.recipe.finetune_schema import FinetuneRecipe, class_folders, resized
from fourm.recipe.job import TrainingJob, train_config
from fourm.recipe.pretrained import load_encoder
from fourm.rng import generator
from fourm.tokenizers.deferred import Deferred
from fourm.train.distributed import session
from fourm.transfer.folder import is_network, save_network
from fourm.transfer.network import TransferNetwork
from fourm.transfer.predicted import Predictor
from fourm.transfer.sliding import slide
from fourm.transfer.source import choose

_LOG = logging.getLogger(__name__)
_LOOKED_AT = 32
"""Samples of each data set that are read before training begins."""


def run(recipe: FinetuneRecipe) -> None:
    """Train the network of a recipe to the end, from its newest checkpoint if there is one.

    Raises:
        FourmError: whatever is wrong with recipe, data, checkpoint or loss, before or during training.
    """
    if is_complete(recipe):
        return
    if recipe.is_detection:
        from fourm.recipe.detection import run as detect

        detect(recipe)
        return
    parts = assemble(recipe)
    recipe = with_layer_decay(recipe, parts.network)
    config = train_config(recipe)
    with session(config.device, config.threads, timeout_minutes=config.timeout_minutes) as world:
        job = TrainingJob(recipe, world, parts.data_modalities, parts.objective, parts.encoders, parts.hashes)
        for dataset in (*job.mixture.datasets.values(), *job.validation):
            look_at(dataset, parts.objective)
        job.fit(
            parts.network,
            lambda trained, path: save_network(trained, recipe.objective, parts.objective.task.modality, path),
            evaluate=partial(evaluate, job) if job.validation else None,
        )


@dataclass
class Parts:
    """What a recipe is made of.

    Args:
        network: to be trained.
        objective: scores it.
        data_modalities: what the data sets hold.
        encoders: modality -> text to ids.
        hashes: token modality -> hash of its tokenizer.
    """

    network: TransferNetwork
    objective: Supervised
    data_modalities: ModalitySet
    encoders: dict[str, Any]
    hashes: dict[str, str]


def assemble(recipe: FinetuneRecipe) -> Parts:
    """Network and objective of a recipe, checked as far as that needs no sample.

    Raises:
        ConfigError: if parts of the recipe contradict one another.
        CheckpointError: if the checkpoint is damaged, or does not read a modality that is asked for.
        DataError: if data is missing.
    """
    source, bundle = open_source(recipe.init_from)
    if recipe.predict and bundle is None:
        raise ConfigError(
            f"predict asks the decoder of the checkpoint, which {recipe.init_from} has not: it is an encoder alone"
        )
    answer = recipe.answer(find_classes(recipe))
    network, task = build_network(recipe, answer, source)
    inputs = ModalitySet(
        resized(m, recipe.backbone.image_size)
        for m in network.backbone.modalities.values()
        if m.name not in _predicted(recipe, network)
    )
    if answer.name in inputs:
        raise ConfigError(f"'{answer.name}' is both an input and the answer; take it out of backbone.modalities")
    modalities = ModalitySet([*inputs.values(), answer])
    objective = _objective(recipe, task, inputs)
    if bundle is not None and recipe.predict:
        objective.frozen["predictor"] = Predictor(bundle.model, inputs, _predicted(recipe, network))
    return Parts(
        network, objective, modalities,
        text_encoders(inputs, bundle.text if bundle else None), _hashes(recipe, modalities, bundle),
    )  # fmt: skip


def open_source(path: str | None) -> tuple[Any, Bundle | None]:
    """What the encoder comes from, and for a model what belongs to it."""
    if path is None:
        return None, None
    if is_network(path):
        return load_encoder(path), None
    bundle = load_bundle(path)
    return bundle.model, bundle


def find_classes(recipe: FinetuneRecipe) -> tuple[str, ...]:
    """Names of the classes of whole samples; empty for other tasks, and where only their number is known.

    Raises:
        ConfigError: if the folders are not the classes that the recipe names.
        DataError: if data is missing.
    """
    task = recipe.objective
    if not isinstance(task, ClassificationConfig):
        return ()
    if task.source is not None:
        return tuple(task.classes)
    found = {}
    for mixture in (recipe.data.train, recipe.data.val):
        for name, dataset in mixture.datasets.items():
            if dataset.format == "shards":
                if not task.classes:
                    raise ConfigError(
                        f"data set '{name}' is of shards, where classes are not folders: name them under "
                        "objective.classes, or the folder of label files under objective.source"
                    )
                continue
            found[name] = _folders(name, dataset, recipe)
    return class_folders(recipe, found) if found else tuple(task.classes)


def _folders(name: str, dataset: DatasetConfig, recipe: FinetuneRecipe) -> list[str]:
    """The folders of classes of a data set."""
    keys = {name.split("@")[0] for name in recipe.backbone.modalities}
    folder = next((f for f, m in dataset.modality_name_map.items() if m.split("@")[0] in keys), None)
    root = source_folder(Path(dataset.path), folder or sorted(keys)[0])
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(
            f"data set '{name}': {root} holds no folders, which would be the classes. Name the folder of label files "
            "under objective.source, or sort the images by class"
        )
    return found


def _predicted(recipe: FinetuneRecipe, network: TransferNetwork) -> list[str]:
    """Full names of the inputs that are predicted."""
    return [choose(name, network.backbone.modalities).name for name in recipe.predict]


def _objective(recipe: FinetuneRecipe, task: Task, inputs: ModalitySet) -> Supervised:
    config = recipe.objective
    mix = None
    if isinstance(config, ClassificationConfig) and (config.mixup or config.cutmix):
        mix = Mix(config.mixup, config.cutmix, config.cutmix_probability)
    objective = Supervised(task, inputs, config.modality_dropout, mix=mix)
    window = recipe.evaluation.window
    if recipe.predict and window and any(m.grid.image_size != (window, window) for m in inputs.values() if m.is_grid):
        raise ConfigError(f"predict: the model that predicts cannot read windows of {window} pixels; give its own size")
    strange = [m.name for m in inputs.values() if recipe.evaluation.window is not None and not is_image(m)]
    if strange:
        raise ConfigError(f"evaluation.window slides over images, which '{strange[0]}' is not: leave it out")
    objective.for_evaluation(hidden_inputs(recipe, inputs))  # so that what contradicts itself is told now
    return objective


def hidden_inputs(recipe: FinetuneRecipe, inputs: ModalitySet) -> list[str]:
    """Full names of the inputs that are not shown when measuring."""
    return [choose(name, inputs).name for name in recipe.evaluation.hidden]


def _hashes(recipe: FinetuneRecipe, modalities: ModalitySet, bundle: Bundle | None) -> dict[str, str]:
    """Hashes of the tokenizers of token inputs; tokens on disk must come from them."""
    tokenizers = bundle.tokenizers if bundle is not None else {}
    hashes = {n: t.hash for n, t in tokenizers.items() if n in modalities and not isinstance(t, Deferred)}
    for mixture in (recipe.data.train, recipe.data.val):
        for name, dataset in mixture.datasets.items():
            check_tokens(name, dataset, modalities, hashes)
    return hashes


def look_at(dataset: AlignedDataset, objective: Supervised) -> None:
    """Read a few samples, so that what is wrong with all of them is told before training.

    Raises:
        DataError: if a sample is damaged or does not fit, or none of them has anything to be scored.
    """
    number = min(len(dataset), _LOOKED_AT)
    scored = 0
    for n in (i * len(dataset) // number for i in range(number)):
        item = objective.prepare(dataset.sample(n, generator(0, "look", n)), generator(0, "look", n))
        scored += objective.task.scored(item.target)
    if not scored:
        raise DataError(
            f"data set '{dataset.name}' ({dataset.source.name}): none of {number} samples has anything of "
            f"'{objective.task.modality.name}' to be scored; all of it is void. Check how its files are read (`decode`)"
        )


def score_of(task: Task) -> TaskScore:
    """The metrics of a task."""
    if isinstance(task, Classification):
        return ClassificationScore(task.num_outputs)
    if isinstance(task, Segmentation):
        return SegmentationScore(task.num_outputs)
    return DepthScore(task.config.min_depth, task.config.max_depth) if isinstance(task, Depth) else NormalsScore()


def evaluate(job: TrainingJob, model: Any) -> dict[str, float]:
    """Loss and metrics on the validation sets, the same for any number of ranks; with several sets, each by name."""
    recipe, world = job.recipe, job.world
    assert isinstance(recipe, FinetuneRecipe)
    assert isinstance(job.objective, Supervised)
    objective = job.objective.for_evaluation(hidden_inputs(recipe, job.objective.inputs))
    found: dict[str, float] = {}
    for dataset in job.validation:
        score, loss = score_of(objective.task), torch.zeros(2, dtype=torch.float64)
        for batch in job.validation_batches(dataset, objective):
            with torch.autocast(
                world.device.type, torch.bfloat16, enabled=use_bf16(job.config.precision, world.device)
            ):
                output = answers(objective, model, batch, recipe.evaluation.window, recipe.evaluation.stride)
                ((total, count),) = objective.score(output, batch).parts.values()
            loss += torch.tensor([float(total), float(count)], dtype=torch.float64)
            score.add(objective.task.answer(output), batch.target)
        total_loss, total_count = world.sum(loss).tolist()
        score.sums = world.sum(score.sums)
        results = {"loss": total_loss / max(total_count, 1.0), **score.result()}
        prefix = f"{dataset.name}/" if len(job.validation) > 1 else ""
        found |= {f"{prefix}{name}": value for name, value in results.items()}
    return found


def answers(
    objective: Supervised, model: Callable[..., Tensor], batch: LabelledBatch, window: int | None, stride: int | None
) -> Tensor:
    """The network's output, from sliding windows if there are any."""
    if window is None:
        return objective.output(model, batch)  # type: ignore[arg-type]
    present = batch.present or None
    return slide(lambda images: model(objective.complete(images), present), batch.inputs, window, stride)
