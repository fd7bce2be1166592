"""Images with boxes and masks as a data set that the loader reads, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.data.coco import CocoImages, Instances
from fourm.data.coco_config import ScaleJitterConfig
from fourm.data.scale_jitter import scale_jitter

Target = dict[str, Tensor]


class DetectionDataset:
    """Numbers to images with what is in them. `sample` is a pure function of the number and the generator.

    Args:
        name: of the data set; keys its random order.
        source: the images.
        size: pixels per side of the results of jitter.
        jitter: how images are changed; None: they stay whole, in their own size.
    """

    def __init__(self, name: str, source: CocoImages, size: int, jitter: ScaleJitterConfig | None) -> None:
        self.name, self.source, self.size, self.jitter = name, source, size, jitter
        self.shard_sizes = [len(source)]

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        """Image n under `scene`, as `Instances`.

        Args:
            n: its number.
            rng: draws the jitter.
            resolution: pixels per side instead of `size`.

        Raises:
            DataError: if its file is damaged.
        """
        scene = self.source.read(n)
        if self.jitter is not None:
            scene = scale_jitter(scene, resolution or self.size, self.jitter, rng)
        return {"scene": scene}


@dataclass
class DetectionBatch:
    """Images and what is in them.

    Args:
        images: (3, H, W) float32 in [0, 1] each; their sizes may differ.
        targets: for each image `boxes` (n, 4) x1, y1, x2, y2 float32, `labels` (n,) int64 from 1, and where they are
            read `masks` (n, H, W) uint8; when evaluating also `iscrowd` and `area` (n,).
    """

    images: list[Tensor]
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> DetectionBatch:
        """The same on a device."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DetectionBatch:
        """The same in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, change: Any) -> DetectionBatch:
        targets = [{name: change(value) for name, value in target.items()} for target in self.targets]
        return DetectionBatch([change(image) for image in self.images], targets)


def training_item(scene: Instances) -> tuple[Tensor, Target]:
    """An image and its targets, without crowds: they are no examples of one instance."""
    single = ~scene.crowd
    target = {"boxes": torch.from_numpy(scene.boxes[single]), "labels": torch.from_numpy(scene.labels[single])}
    if scene.masks is not None:
        target["masks"] = torch.from_numpy(scene.masks[single]).to(torch.uint8)
    return _image(scene), target


def evaluation_item(scene: Instances) -> tuple[Tensor, Target]:
    """An image and everything that is known of it, crowds included: what lies in them is neither right nor wrong."""
    target = {
        "boxes": torch.from_numpy(scene.boxes),
        "labels": torch.from_numpy(scene.labels),
        "iscrowd": torch.from_numpy(scene.crowd.astype(np.int64)),
        "area": torch.from_numpy(scene.area),
    }
    if scene.masks is not None:
        target["masks"] = torch.from_numpy(scene.masks).to(torch.uint8)
    return _image(scene), target


def collate(items: Sequence[tuple[Tensor, Target]]) -> DetectionBatch:
    """Items as a batch."""
    return DetectionBatch([image for image, _ in items], [target for _, target in items])


def _image(scene: Instances) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(scene.image)).permute(2, 0, 1).float().div_(255)


def scene_of(sample: Mapping[str, Any]) -> Instances:
    """What `DetectionDataset.sample` read."""
    scene = sample["scene"]
    assert isinstance(scene, Instances)
    return scene
