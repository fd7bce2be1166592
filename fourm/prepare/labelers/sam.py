"""Masks of everything in a photograph (Segment Anything, Kirillov et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.feature_configs import SamConfig
from fourm.prepare.labelers.network import TransformersNetwork, transformers


class Sam(TransformersNetwork):
    """Asks a network of the SAM family at a grid of points, and keeps what is good, stable and not there twice.

    Subclasses make a file of the masks.
    """

    what = "mask generator"
    model_class = "AutoModelForMaskGeneration"

    def __init__(self, config: SamConfig, device: str) -> None:
        super().__init__(config, device)
        self._generate: Any = transformers(self.what).MaskGenerationPipeline(
            model=self.model, image_processor=self.processor, device=self.device
        )

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        raise NotImplementedError

    def masks(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(n, H, W), the best first, of an RGB image (H, W, 3)."""
        c = self.config
        with torch.inference_mode(), self._precision():
            found = self._generate(
                Image.fromarray(image),
                points_per_crop=c.points_per_side,
                points_per_batch=c.batch_size,
                pred_iou_thresh=c.min_iou,
                stability_score_thresh=c.min_stability,
                crops_nms_thresh=c.max_overlap,
            )["masks"]
        return np.array([np.asarray(mask) for mask in found], bool).reshape(-1, *image.shape[:2])
