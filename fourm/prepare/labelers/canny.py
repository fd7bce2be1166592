"""Edges (Canny 1986)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.errors import MissingExtraError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import CannyConfig


class Canny:
    """Photographs to grey pngs, 255 on edges.

    Raises:
        MissingExtraError: if OpenCV is not installed.
    """

    def __init__(self, config: CannyConfig, device: str) -> None:
        self.config = config
        self._cv2 = opencv("the label 'canny'")

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [self._png(self.edges(photo.image)) for photo in photos]

    def edges(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Edges of an RGB image (H, W, 3) -> (H, W), 0 or 255."""
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        if self.config.blur:
            grey = self._cv2.GaussianBlur(grey, (0, 0), self.config.blur)
        return np.asarray(self._cv2.Canny(grey, self.config.low, self.config.high))

    def _png(self, edges: NDArray[np.uint8]) -> bytes:
        # Edges are long runs of the same value: counting these is as small as the usual search and twice as fast.
        options = (self._cv2.IMWRITE_PNG_STRATEGY, self._cv2.IMWRITE_PNG_STRATEGY_RLE)
        ok, data = self._cv2.imencode(".png", edges, options)
        assert ok, "OpenCV encodes any 8-bit image"
        return bytes(data.tobytes())


def opencv(purpose: str) -> Any:
    """OpenCV, with one thread: the processes share the cores.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("opencv-python-headless", "labelers", purpose) from None
    cv2.setNumThreads(1)
    return cv2
