"""Depth by networks of the transformers library."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fourm.data.encode import png
from fourm.errors import ConfigError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.network import Inputs, TransformersNetwork, check_finite
from fourm.prepare.labelers.network_configs import DepthConfig

_FULL_SCALE = 65535
_NEAREST = 0.01
"""Metres below which networks cannot tell depth: its inverse would know no bound."""
_GIVES: dict[str, Literal["inverse", "metres"]] = {
    "dpt": "inverse",
    "zoedepth": "metres",
    "glpn": "metres",
    "depth_pro": "metres",
}


class Depth(TransformersNetwork):
    """Photographs to 16-bit grey pngs: what is farther is larger.

    Raises:
        ConfigError: if the network computes something else than the config asks for.
    """

    what = "depth network"
    model_class = "AutoModelForDepthEstimation"

    def __init__(self, config: DepthConfig, device: str) -> None:
        super().__init__(config, device)
        self.gives = self._gives()
        if config.scale == "metric" and self.gives == "inverse":
            raise ConfigError(
                f"scale is metric, but the depth network '{config.name}' gives relative depth; use scale: relative, or "
                "a network for metres, for instance depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
            )
        if not hasattr(self.processor, "post_process_depth_estimation"):
            raise ConfigError(f"the processor of the depth network '{config.name}' makes no depth of its outputs")
        known = inspect.signature(self.processor.post_process_depth_estimation).parameters
        self._sizes = [name for name in ("source_sizes", "target_sizes") if name in known]

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        outputs = self.compute(inputs)
        sizes = [photo.image.shape[:2] for photo in photos]
        found = self.processor.post_process_depth_estimation(outputs, **dict.fromkeys(self._sizes, sizes))
        return [self._file(check_finite(one["predicted_depth"], self.what).cpu().numpy()) for one in found]

    def _file(self, values: NDArray[np.float32]) -> bytes:
        c = self.config
        if c.scale == "metric":
            return png(_sixteen_bit(np.clip(values, *c.value_range) / c.value_range[1]))
        return png(_sixteen_bit(turned(values if self.gives == "inverse" else 1 / np.maximum(values, _NEAREST))))

    def _gives(self) -> Literal["inverse", "metres"]:
        if self.config.gives != "auto":
            return self.config.gives
        facts = self.model.config
        if facts.model_type == "depth_anything":
            return "metres" if facts.depth_estimation_type == "metric" else "inverse"
        if facts.model_type not in _GIVES:
            raise ConfigError(
                f"the depth network '{self.config.name}' is of the kind {facts.model_type}, of which it is not known "
                "whether it gives metres or inverse depth: set `gives: metres` or `gives: inverse` as its "
                "documentation says"
            )
        return _GIVES[facts.model_type]


def turned(inverse: NDArray[Any]) -> NDArray[Any]:
    """Inverse depth (H, W) of unknown scale and shift, turned round: 0 at the nearest point, 1 at the farthest."""
    largest = inverse.max()
    spread = largest - inverse.min()
    return (largest - inverse) / (spread if spread > 0 else 1)


def _sixteen_bit(shares: NDArray[Any]) -> NDArray[np.uint16]:
    return np.rint(np.clip(shares, 0, 1) * _FULL_SCALE).astype(np.uint16)
