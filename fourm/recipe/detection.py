"""Fine-tuning for detection: a recipe with COCO's annotations, on the same trainer as all others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from fourm.data.coco import CocoImages
from fourm.data.coco_config import CocoDataConfig, ScaleJitterConfig
from fourm.data.configs import DatasetConfig
from fourm.data.detection import DetectionDataset
from fourm.errors import ConfigError, DataError
from fourm.evaluate.detections import DetectionScore
from fourm.machine import use_bf16
from fourm.modality import Modality, ModalitySet
from fourm.recipe.bundle import load_bundle
from fourm.recipe.finetune_network import build_network, with_layer_decay
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.recipe.job import TrainingJob, train_config
from fourm.train.distributed import session
from fourm.transfer.detection import Detection, DetectionEvaluation, DetectionTask
from fourm.transfer.detector import DetectorHead
from fourm.transfer.folder import save_network
from fourm.transfer.network import TransferNetwork

_LOG = logging.getLogger(__name__)


@dataclass
class DetectionParts:
    """What a recipe is made of.

    Args:
        network: to be trained.
        objective: scores it.
        answer: holds the classes.
        images: of training (true) and evaluation, by name.
    """

    network: TransferNetwork
    objective: Detection
    answer: Modality
    images: dict[tuple[str, bool], CocoImages]

    def dataset(self, name: str, config: DatasetConfig, training: bool) -> DetectionDataset:
        """A data set of the recipe as the loader reads it."""
        head = self.network.head
        assert isinstance(head, DetectorHead)
        jitter = None
        if training:
            scale = config.crop.scale if config.crop.kind == "scale_jitter" else (1.0, 1.0)
            jitter = ScaleJitterConfig(scale, config.hflip)
        return DetectionDataset(name, self.images[name, training], head.size, jitter)


def run(recipe: FinetuneRecipe) -> None:
    """Train the detector of a recipe to the end, from its newest checkpoint if there is one.

    Raises:
        FourmError: whatever is wrong with recipe, data, checkpoint or loss, before or during training.
    """
    parts = assemble(recipe)
    recipe = with_layer_decay(recipe, parts.network)
    config = train_config(recipe)
    with session(config.device, config.threads, timeout_minutes=config.timeout_minutes) as world:
        job = TrainingJob(recipe, world, ModalitySet(()), parts.objective, open_dataset=parts.dataset)
        job.fit(
            parts.network,
            lambda trained, path: save_network(trained, recipe.objective, parts.answer, path),
            evaluate=partial(evaluate, job, parts.answer.classes) if job.validation else None,
        )


def assemble(recipe: FinetuneRecipe) -> DetectionParts:
    """Network, objective and images of a recipe. All annotations are checked.

    Raises:
        ConfigError: if parts of the recipe contradict one another, or classes do not match.
        CheckpointError: if the checkpoint is damaged, or does not read what is asked for.
        DataError: if data is missing or cannot be right.
    """
    images = open_images(recipe)
    classes = next(iter(images.values())).classes
    wanted = recipe.objective.num_classes
    if wanted not in (None, len(classes)):
        raise ConfigError(
            f"the annotations have {len(classes)} categories ({', '.join(classes[:5])} ...), but "
            f"objective.num_classes is {wanted}; correct one of them"
        )
    bundle = load_bundle(recipe.init_from) if recipe.init_from is not None else None
    answer = recipe.answer(classes)
    network, task = build_network(recipe, answer, bundle.model if bundle else None)
    head: Any = network.head
    assert isinstance(task, DetectionTask)
    objective = Detection(task, head, (head.size // network.backbone.patch_size) ** 2)
    return DetectionParts(network, objective, answer, images)


def open_images(recipe: FinetuneRecipe) -> dict[tuple[str, bool], CocoImages]:
    """The images of all data sets, those of training first; all have the classes of the first one.

    Raises:
        ConfigError: if their categories do not match.
        DataError: if data is missing or cannot be right, or there is nothing to learn from or to measure on.
    """
    classes = list(recipe.objective.classes) or None
    found: dict[tuple[str, bool], CocoImages] = {}
    for training, mixture in ((True, recipe.data.train), (False, recipe.data.val)):
        for name, dataset in mixture.datasets.items():
            if training and dataset.weight == 0:
                continue
            limits = [dataset.max_samples, None if training else recipe.evaluation.max_samples]
            config = CocoDataConfig(
                dataset.path,
                dataset.annotations or "",
                dataset.invalid,
                dataset.keep_empty,
                min((limit for limit in limits if limit is not None), default=None),
            )
            images = CocoImages(config, classes, only=bool(recipe.objective.classes), masks=recipe.head.masks)
            if not images.num_instances:
                raise DataError(
                    f"data set '{name}': {dataset.annotations} has no annotation of the classes "
                    f"{', '.join(images.classes[:10])}. Give data that shows them"
                )
            _LOG.info("%s: %d images with %d instances", name, len(images), images.num_instances)
            found[name, training] = images
            classes = classes or list(images.classes)
    if not any(training for _, training in found):
        raise DataError("there is nothing to train on; list at least one data set under data.train.datasets")
    return found


def evaluate(job: TrainingJob, classes: tuple[str, ...], model: nn.Module) -> dict[str, float]:
    """Average precision on the validation sets; with several sets, each by name.

    Every rank finds the instances of its share of the images.
    """
    found: dict[str, float] = {}
    assert isinstance(model, TransferNetwork)
    for dataset in job.validation:
        score = DetectionScore(classes, masks=dataset.source.masks)
        asked = DetectionEvaluation(job.objective.modality)  # type: ignore[attr-defined]
        bf16 = use_bf16(job.config.precision, job.world.device)
        for batch in job.validation_batches(dataset, asked):
            with torch.autocast(job.world.device.type, torch.bfloat16, enabled=bf16):
                score.add(asked.answer(model, batch), batch.targets)
        score.pairs = job.world.gather(score.pairs)
        values = score.values()
        prefix = f"{dataset.name}/" if len(job.validation) > 1 else ""
        found |= {f"{prefix}{name}": value for name, value in values.items()}
    return found
