"""Edges of Segment Anything's masks (4M-21, Bachmann et al. 2024, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fourm.data.encode import png
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.canny import opencv
from fourm.prepare.labelers.feature_configs import SamEdgeConfig
from fourm.prepare.labelers.sam import Sam

_THRESHOLDS = (100, 200)  # of Canny; the edge of a mask passes any


class SamEdge(Sam):
    """Photographs to grey pngs, 255 where a mask ends.

    Raises:
        MissingExtraError: if OpenCV is not installed.
    """

    def __init__(self, config: SamEdgeConfig, device: str) -> None:
        self._cv2 = opencv("the label 'sam_edge'")
        super().__init__(config, device)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [png(self.edges(self.masks(photo.image))) for photo in photos]

    def edges(self, masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Canny edges of masks (n, H, W), all in one picture -> (H, W), 0 or 255."""
        drawn = np.zeros(masks.shape[1:], np.uint8)
        for mask in masks:
            drawn |= self._cv2.Canny(mask.astype(np.uint8) * 255, *_THRESHOLDS)
        return drawn
