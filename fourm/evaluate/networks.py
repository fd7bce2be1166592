"""Metrics that look through a trained network. Where its weights cannot be had, they say why instead of failing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)


class NetworkScore:
    """A metric of torchmetrics, as far as it can be computed.

    Args:
        build: makes the metric, downloading what it needs.
        add: adds a batch of images (B, 3, H, W) in [0, 1] and their truth to it.
        device: where it runs.

    Attributes:
        reason: why there is no value; empty while there may be one.
    """

    def __init__(
        self, build: Callable[[], Any], add: Callable[[Any, Tensor, Tensor], None], device: torch.device
    ) -> None:
        self._add, self._device, self._metric, self.reason = add, device, None, ""
        self._guarded(lambda: setattr(self, "_metric", build().to(device)))

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch."""
        if not self.reason:
            self._guarded(lambda: self._add(self._metric, predicted.to(self._device), truth.to(self._device)))

    def value(self) -> float:
        """The metric; not a number if it could not be computed, and `reason` says why."""
        found = [math.nan]
        if self._metric is not None and not self.reason:
            self._guarded(lambda: found.append(float(self._metric.compute())))  # type: ignore[attr-defined]
        return found[-1]

    def _guarded(self, work: Callable[[], object]) -> None:
        """Missing packages, downloads that fail and images too small for the network leave the metric out."""
        try:
            work()
        except ImportError as error:
            self.reason = f"a package is missing ({_first_line(error)})"
        except OSError as error:
            self.reason = (
                f"the weights of its network are not here and cannot be downloaded ({_first_line(error)}); run the "
                "command once where they can"
            )
        except (RuntimeError, ValueError) as error:
            self.reason = f"its network cannot take these images ({_first_line(error)})"
        else:
            return
        _LOG.debug("a metric is left out", exc_info=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def lpips(device: torch.device) -> NetworkScore:
    """Learned perceptual image patch similarity with AlexNet (Zhang et al. 2018), mean over images."""

    def build() -> Any:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity("alex", normalize=True)

    return NetworkScore(build, lambda metric, images, truth: metric.update(images, truth), device)


def fid(device: torch.device, features: Any = 2048) -> NetworkScore:
    """Fréchet distance between features of reconstructions and originals (Heusel et al. 2017).

    Args:
        device: where it runs.
        features: which layer of Inception-v3, or a module from (B, 3, H, W) bytes to (B, d) with `num_features`.
    """

    def build() -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(features, normalize=True)

    def add(metric: Any, images: Tensor, truth: Tensor) -> None:
        metric.update(truth, real=True)
        metric.update(images, real=False)

    return NetworkScore(build, add, device)


NETWORKS: dict[str, Callable[[torch.device], NetworkScore]] = {"lpips": lpips, "fid": fid}
