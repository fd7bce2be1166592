"""Detection as a task of the trainer: which losses there are, and what they are divided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourm.data.detection import DetectionBatch, collate, evaluation_item, scene_of, training_item
from fourm.modality import Modality
from fourm.objectives.base import Loss
from fourm.objectives.supervised_configs import DetectionConfig
from fourm.transfer.detector import DetectorHead


class DetectionTask:
    """What is asked.

    Args:
        config: of the objective.
        modality: holds the names of the classes.
    """

    name = "detection"
    is_dense = False

    def __init__(self, config: DetectionConfig, modality: Modality) -> None:
        self.config, self.modality, self.num_outputs = config, modality, modality.vocab_size


class Detection:
    """The objective of a `TransferNetwork` whose head is a `DetectorHead`.

    Every loss is a mean over images, which torchvision's losses are, up to images with fewer proposals than are
    sampled. Which of them are sampled, each rank draws itself.

    Args:
        task: what is asked.
        head: of the network.
        num_tokens: that the backbone spends on an image.
    """

    def __init__(self, task: DetectionTask, head: DetectorHead, num_tokens: int) -> None:
        self.task, self.modality, self.tokens_per_image = task, head.modality, num_tokens
        self.parts = head.config.loss_names
        self.frozen: dict[str, nn.Module] = {}

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Any:
        """Image and targets, without crowds."""
        return training_item(scene_of(sample))

    def collate(self, items: Sequence[Any]) -> DetectionBatch:
        """A batch of lists."""
        return collate(items)

    def counts(self, batch: DetectionBatch) -> dict[str, float]:
        """Images, for every part."""
        return dict.fromkeys(self.parts, float(len(batch)))

    def num_tokens(self, batch: DetectionBatch) -> int:
        """Tokens that the backbone spends on the batch."""
        return len(batch) * self.tokens_per_image

    def loss(self, model: nn.Module, batch: DetectionBatch) -> Loss:
        """All losses of the detector, added up."""
        losses: dict[str, Tensor] = model({self.modality: batch.images}, targets=batch.targets)
        count = float(len(batch))
        return Loss({name: (losses[name] * count, count) for name in self.parts}, "weighted")


class DetectionEvaluation:
    """Items and answers of an evaluation: whole images, and all that is known of them."""

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Any:
        """Image and truth."""
        return evaluation_item(scene_of(sample))

    def collate(self, items: Sequence[Any]) -> DetectionBatch:
        """A batch of lists."""
        return collate(items)

    @torch.no_grad()
    def answer(self, model: nn.Module, batch: DetectionBatch) -> list[dict[str, Tensor]]:
        """What a network in eval mode finds."""
        found: list[dict[str, Tensor]] = model({self.modality: batch.images})
        return found
