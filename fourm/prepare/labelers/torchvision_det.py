"""Boxes by the detectors of torchvision (Faster R-CNN, Ren et al. 2015, and others)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fourm.errors import ConfigError, did_you_mean
from fourm.nn.pretrained import frozen, read_tensors
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.det import box_names, boxes_file
from fourm.prepare.labelers.network import Inputs, Network
from fourm.prepare.labelers.network_configs import TorchvisionDetConfig


class TorchvisionDet(Network):
    """Photographs to JSON: their boxes with class and score, the surest first.

    Raises:
        ConfigError: if torchvision has no such detector.
        CheckpointError: if its weights cannot be loaded.
    """

    def __init__(self, config: TorchvisionDetConfig, device: str) -> None:
        super().__init__(config, device)
        from torchvision import models

        known = models.list_models(module=models.detection)
        if config.name not in known:
            raise ConfigError(
                f"name is '{config.name}', which is no detector of torchvision.{did_you_mean(config.name, known)}"
            )
        published = models.get_model_weights(config.name).DEFAULT
        names = published.meta["categories"]

        def build() -> Any:
            model = models.get_model(config.name, weights=None, weights_backbone=None, num_classes=len(names))
            if config.weights is not None:
                model.load_state_dict(read_tensors(config.weights, "`weights`"))
            elif config.pretrained:
                # torchvision's own loading would unpickle whatever the file holds.
                model.load_state_dict(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
            return model

        remedy = f"`weights` of this label to a local copy of {published.url}"
        self.model = frozen(build, f"detector '{config.name}'", remedy).to(self.device)
        self._names = box_names(names)

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        return [self._file(found, photo) for found, photo in zip(self.model(list(inputs["pixels"])), photos)]

    def _file(self, found: dict[str, Tensor], photo: Photo) -> bytes:
        height, width = photo.image.shape[:2]
        sure = found["scores"] >= self.config.threshold
        boxes = found["boxes"][sure] / found["boxes"].new_tensor([width, height, width, height])
        return boxes_file(boxes, found["scores"][sure], found["labels"][sure], self._names)
