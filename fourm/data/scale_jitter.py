"""Large-scale jitter: an image with boxes and masks made larger or smaller, cropped and padded to one fixed size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fourm.data.coco import Instances
from fourm.data.coco_config import ScaleJitterConfig

_GREY = 128  # of what no image covers, as ViTDet pads


def scale_jitter(scene: Instances, size: int, config: ScaleJitterConfig, rng: np.random.Generator) -> Instances:
    """Scale, crop, pad and mirror an image and all that is in it.

    The longer side becomes a random share of `size`. What is then too large is cropped at a random place, what is too
    small is padded at its right and lower border. Boxes become those of what the crop shows of the masks.

    Args:
        scene: the image.
        size: pixels per side of the result.
        config: how much it is changed.
        rng: draws scale, place and mirroring, in this order.

    Returns:
        an image (size, size, 3) with the instances that are still to be seen.
    """
    height, width = scene.image.shape[:2]
    factor = size * rng.uniform(*config.scale) / max(height, width)
    new = (max(1, round(height * factor)), max(1, round(width * factor)))
    top, left = (int(rng.uniform() * max(0, side - size + 1)) for side in new)
    mirrored = rng.random() < config.hflip
    kept = (min(size, new[0]), min(size, new[1]))

    def moved(value: Tensor, fill: int) -> Tensor:
        mode = InterpolationMode.NEAREST if isinstance(value, tv_tensors.Mask) else InterpolationMode.BILINEAR
        value = F.resize(value, list(new), interpolation=mode, antialias=True)
        value = F.crop(value, top, left, *kept)
        value = F.pad(value, [0, 0, size - kept[1], size - kept[0]], fill=fill)
        return F.horizontal_flip(value) if mirrored else value

    before = torch.from_numpy(scene.boxes)
    boxes = moved(tv_tensors.BoundingBoxes(before, format="XYXY", canvas_size=(height, width)), 0)
    boxes = boxes.as_subclass(Tensor)
    scaled = (before[:, 2:] - before[:, :2]).prod(1) * (new[0] / height) * (new[1] / width)
    seen = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    masks = None
    if scene.masks is not None:
        masks = moved(tv_tensors.Mask(torch.from_numpy(scene.masks)), 0).as_subclass(Tensor)
        boxes, seen = _boxes_of(masks), torch.where(masks.any((1, 2)), seen, 0)
    image = moved(tv_tensors.Image(torch.from_numpy(scene.image.copy()).permute(2, 0, 1)), _GREY)
    stays = ((seen > 0) & (seen >= config.min_visible * scaled)).numpy()
    return replace(
        scene,
        image=image.as_subclass(Tensor).permute(1, 2, 0).numpy(),
        boxes=boxes.numpy()[stays],
        labels=scene.labels[stays],
        masks=None if masks is None else masks.numpy()[stays],
        crowd=scene.crowd[stays],
        area=scene.area[stays] * np.float32(new[0] * new[1] / (height * width)),
    )


def _boxes_of(masks: Tensor) -> Tensor:
    """(n, 4) float32 boxes around (n, H, W) masks; zeros for empty ones."""

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        number = torch.arange(line.shape[1])
        last = torch.where(line, number + 1, 0).amax(1)
        return torch.where(line, number, line.shape[1]).amin(1).minimum(last), last

    (y1, y2), (x1, x2) = ends(masks.any(2)), ends(masks.any(1))
    return torch.stack([x1, y1, x2, y2], 1).float()
