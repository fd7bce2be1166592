"""Semantic segmentation by universal networks of the transformers library (Mask2Former, Cheng et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm.data.decode import VOID
from fourm.data.encode import png
from fourm.errors import ConfigError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.coco import as_coco
from fourm.prepare.labelers.network import Inputs, TransformersNetwork, load_processor
from fourm.prepare.labelers.network_configs import SemsegConfig


class Semseg(TransformersNetwork):
    """Photographs to grey pngs of class ids.

    Raises:
        ConfigError: if the network does not know the classes that the config asks for.
    """

    what = "segmentation network"
    model_class = "AutoModelForUniversalSegmentation"

    def __init__(self, config: SemsegConfig, device: str) -> None:
        super().__init__(config, device)
        names = [str(name) for _, name in sorted(self.model.config.id2label.items())]
        self._ids = stored_ids(names, config)
        # OneFormer is told in words which kind of segmentation to make; these need a tokenizer.
        self._told = self.model.config.model_type == "oneformer"
        if self._told:
            self.processor = load_processor(config, "AutoProcessor", self.what)

    def options(self) -> dict[str, Any]:
        return {"task_inputs": ["semantic"]} if self._told else {}

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        sizes = [photo.image.shape[:2] for photo in photos]
        found = self.processor.post_process_semantic_segmentation(self.compute(inputs), target_sizes=sizes)
        return [png(self._ids[one.cpu().numpy()]) for one in found]


def stored_ids(names: Sequence[str], config: SemsegConfig) -> np.ndarray:
    """(len(names),) uint8: what is stored for each class of a network.

    Raises:
        ConfigError: if COCO's classes are asked for, and some of them are not among the names.
    """
    if config.vocabulary == "model":
        return np.arange(len(names), dtype=np.uint8)
    classes = config.classes()
    found = as_coco(names, classes)
    if found is None:
        raise ConfigError(
            f"vocabulary is coco, but the segmentation network '{config.name}' does not know COCO's panoptic classes: "
            f"its {len(names)} classes are {', '.join(names[:5])}, ... Set vocabulary: model to store these"
        )
    return np.array([VOID if name is None else classes.index(name) for name in found], np.uint8)
