"""Masks of photographs that were cut out, from their own transparency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourm.data.encode import png
from fourm.errors import DataError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import AlphaConfig


class Alpha:
    """Photographs to label maps, 1 where the object is."""

    def __init__(self, config: AlphaConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [png(self._mask(photo)) for photo in photos]

    def _mask(self, photo: Photo) -> np.ndarray:
        if photo.alpha is None:
            if not self.config.opaque:
                raise DataError(
                    "the photograph is not transparent anywhere; opaque: true takes all of it as the object"
                )
            return np.ones(photo.image.shape[:2], np.uint8)
        return (photo.alpha >= self.config.threshold * 255).astype(np.uint8)
