"""Crops and flips that all modalities of a photograph follow (4M's `crop_settings`)."""

from __future__ import annotations

from collections.abc import Sequence

from fourm.data.configs import CropConfig
from fourm.data.encode import npy
from fourm.data.geometry import draw_settings
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import CropSettingsConfig
from fourm.rng import generator


class CropSettings:
    """Photographs to npy (crops, 5): top, left, height, width, mirrored."""

    def __init__(self, config: CropSettingsConfig, device: str) -> None:
        self.config = config
        random = CropConfig("random_resized", scale=(config.min_scale, 1.0))
        self._crop = random if config.min_scale < 1 else CropConfig("none")

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [self._crops(photo.key, photo.image.shape[:2]) for photo in photos]

    def _crops(self, key: str, size: tuple[int, int]) -> bytes:
        c = self.config
        shape = (1000, round(1000 * c.aspect))
        return npy(draw_settings(c.num_crops, size, shape, generator(c.seed, "crops", key), self._crop, c.hflip))
