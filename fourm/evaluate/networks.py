"""Metrics that look through a trained network. Where its weights cannot be had, they say why instead of failing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.errors import ConfigError

_LOG = logging.getLogger(__name__)


class NetworkScore:
    """A metric of torchmetrics, as far as it can be computed.

    Args:
        build: makes the metric, downloading what it needs.
        add: adds a batch of images (B, 3, H, W) in [0, 1], and their truth or texts, to it.
        device: where it runs.

    Attributes:
        reason: why there is no value; empty while there may be one.
    """

    def __init__(self, build: Callable[[], Any], add: Callable[[Any, Tensor, Any], None], device: torch.device) -> None:
        self._add, self._device, self._metric, self.reason = add, device, None, ""
        self._guarded(lambda: setattr(self, "_metric", build().to(device)))

    def add(self, predicted: Tensor, truth: Any) -> None:
        """Add a batch: images and their truth, or texts."""
        if not self.reason:
            there = truth.to(self._device) if isinstance(truth, Tensor) else truth
            self._guarded(lambda: self._add(self._metric, predicted.to(self._device), there))

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
        except ConfigError:
            raise
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


def fid(device: torch.device, features: Any = 2048, weights: Path | None = None) -> NetworkScore:
    """Fréchet distance between features of reconstructions and originals (Heusel et al. 2017).

    Args:
        device: where it runs.
        features: which layer of Inception-v3, or a module from (B, 3, H, W) bytes to (B, d) with `num_features`.
        weights: file with those of torch-fidelity's Inception-v3; None: downloaded.
    """

    def build() -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        file = None if weights is None else str(_existing(weights))
        return FrechetInceptionDistance(features, normalize=True, feature_extractor_weights_path=file)

    def add(metric: Any, images: Tensor, truth: Tensor) -> None:
        metric.update(truth, real=True)
        metric.update(images, real=False)

    return NetworkScore(build, add, device)


def clip_score(device: torch.device, weights: Path | None = None) -> NetworkScore:
    """100 times the cosine of the angle between what CLIP sees in images and in their texts (Hessel et al. 2021).

    Args:
        device: where it runs.
        weights: folder of a CLIP model as transformers saves it; None: ViT-L/14, downloaded.
    """

    def build() -> Any:
        from torchmetrics.multimodal.clip_score import CLIPScore

        name: Any = "openai/clip-vit-large-patch14" if weights is None else str(_existing(weights))
        return CLIPScore(name)

    def add(metric: Any, images: Tensor, texts: list[str]) -> None:
        metric.update((images.clamp(0, 1) * 255).round().to(torch.uint8), texts)

    return NetworkScore(build, add, device)


def _existing(path: Path) -> Path:
    """The path, if there is something.

    Raises:
        ConfigError: if there is nothing.
    """
    if not path.exists():
        raise ConfigError(f"there is nothing at {path}, which is named as the weights of a metric; correct the path")
    return path


NETWORKS: dict[str, Callable[[torch.device], NetworkScore]] = {"lpips": lpips, "fid": fid}
