"""Classify by nearest neighbours in the features of an encoder, with data and backbone of a fine-tuning recipe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fourm.data.dataset import AlignedDataset, build_dataset
from fourm.data.loader import evaluate_batches
from fourm.errors import ConfigError
from fourm.evaluate.knn import knn_scores
from fourm.evaluate.tasks import ClassificationScore
from fourm.machine import choose_device
from fourm.objectives.supervised_configs import ClassificationConfig
from fourm.recipe.finetune import Parts, assemble, hidden_inputs, look_at
from fourm.recipe.finetune_schema import FinetuneRecipe


def run(recipe: FinetuneRecipe, k: int = 20, temperature: float = 0.07) -> dict[str, float]:
    """Features of all training samples without augmentation vote on the validation samples.

    Args:
        recipe: of a classification; its head and training are not used.
        k: neighbours that vote.
        temperature: of their weights.

    Returns:
        `knn/top1` and, with more than five classes, `knn/top5`.

    Raises:
        ConfigError: for another task, or without validation data.
        DataError, CheckpointError: as in fine-tuning.
    """
    if not isinstance(recipe.objective, ClassificationConfig) or not recipe.data.val.datasets:
        raise ConfigError("nearest neighbours need objective.kind classification and a data set under data.val")
    parts = assemble(recipe)
    known, labels = _features(recipe, parts, "train")
    score = ClassificationScore(parts.network.num_outputs)
    features, truth = _features(recipe, parts, "val")
    score.add(knn_scores(features, known, labels, parts.network.num_outputs, k, temperature), truth)
    return {f"knn/{name}": value for name, value in score.result().items()}


@torch.no_grad()
def _features(recipe: FinetuneRecipe, parts: Parts, split: str) -> tuple[Tensor, Tensor]:
    """(N, D) pooled features and (N,) classes of all samples of a split."""
    device = choose_device(recipe.train.device)
    backbone = parts.network.backbone.eval().to(device)
    objective = parts.objective.for_evaluation(hidden_inputs(recipe, parts.objective.inputs))
    for module in objective.frozen.values():
        module.eval().to(device)
    features, labels = [], []
    for dataset in _datasets(recipe, parts, split):
        look_at(dataset, objective)
        for batch in evaluate_batches(
            dataset, objective.prepare, objective.collate,
            batch_size=recipe.evaluation.batch_size, num_workers=recipe.data.num_workers,
        ):  # fmt: skip
            batch = batch.to(device)
            features.append(backbone.pooled(objective.complete(batch.inputs), batch.present or None).cpu())
            labels.append(batch.target.cpu())
    return torch.cat(features), torch.cat(labels)


def _datasets(recipe: FinetuneRecipe, parts: Parts, split: str) -> Iterable[AlignedDataset]:
    """The data sets of a split, seen as the first validation set is: without random crops and flips."""
    seen = next(iter(recipe.data.val.datasets.values())).crop

    for name, config in getattr(recipe.data, split).datasets.items():
        if split == "train" and config.weight == 0:
            continue
        plain = replace(config, crop=seen, hflip=0.0, jitter=0.0, rand_augment=None, erase=0.0)
        yield build_dataset(name, plain, parts.data_modalities, parts.encoders)
