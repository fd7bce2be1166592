"""What supervised tasks ask of a network's output: how it is scored, and what it says in natural units."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.objectives.supervised_configs import ClassificationConfig, DepthConfig, NormalsConfig, SegmentationConfig

VOID = -1
_SHORTEST_NORMAL = 0.5


class Task(Protocol):
    """One task.

    Attributes:
        name: part of the loss, and of the metrics.
        modality: what the answers are compared with.
        num_outputs: channels of the network's output.
        is_dense: whether it has an answer for every pixel.
    """

    name: str
    modality: Modality
    num_outputs: int
    is_dense: bool

    def scored(self, target: np.ndarray) -> int:
        """How much of one target is scored: what the loss is divided by. Pure, on the host."""
        ...

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,) sum over what is scored of each sample, of outputs (B, C) or (B, C, H, W) of the target's size."""
        ...

    def answer(self, output: Tensor) -> Tensor:
        """The output in natural units: class scores, metres (B, 1, H, W) or unit normals (B, 3, H, W)."""
        ...


class Classification:
    """Cross-entropy of one class per sample."""

    name = "classification"
    is_dense = False

    def __init__(self, config: ClassificationConfig, modality: Modality) -> None:
        self.config, self.modality, self.num_outputs = config, modality, modality.vocab_size

    def scored(self, target: np.ndarray) -> int:
        """One answer per sample."""
        return 1

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B, C) scores, (B,) classes."""
        smoothing = self.config.label_smoothing
        return F.cross_entropy(output.float(), target, reduction="none", label_smoothing=smoothing)

    def answer(self, output: Tensor) -> Tensor:
        """(B, C) scores."""
        return output


class Segmentation:
    """Cross-entropy of one class per pixel."""

    name = "segmentation"
    is_dense = True

    def __init__(self, config: SegmentationConfig, modality: Modality) -> None:
        if not modality.is_discrete or not modality.is_grid:
            raise ConfigError(f"objective.modality is '{modality.name}'; segmentation needs a map of classes")
        self.config, self.modality, self.num_outputs = config, modality, modality.vocab_size

    def scored(self, target: np.ndarray) -> int:
        """Labelled pixels."""
        return int((target != VOID).sum())

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) scores, (B, H, W) classes, -1 void."""
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(output.float(), target, ignore_index=VOID, reduction="none", label_smoothing=smoothing)
        return loss.flatten(1).sum(1)

    def answer(self, output: Tensor) -> Tensor:
        """(B, C, H, W) scores."""
        return output


class Depth:
    """Errors of the logarithm of metres, one number per image."""

    name = "depth"
    is_dense = True
    num_outputs = 1

    def __init__(self, config: DepthConfig, modality: Modality) -> None:
        _needs_channels(modality, 1, "depth")
        self.config, self.modality = config, modality

    def known(self, target: Any) -> Any:
        """Which pixels are scored."""
        return (target >= self.config.min_depth) & (target <= self.config.max_depth)

    def scored(self, target: np.ndarray) -> int:
        """Images with a known pixel."""
        return int(self.known(target).any())

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B, 1, H, W) logarithms, (B, 1, H, W) metres -> (B,) mean error over the known pixels of an image."""
        known = self.known(target).flatten(1).float()
        count = known.sum(1).clamp(min=1)
        logs, true = output.float().flatten(1), target.flatten(1)
        low, high = self.config.min_depth, self.config.max_depth
        error = (logs - true.clamp(low, high).log()) * known
        match self.config.loss:
            case "silog":
                common = error.sum(1) / count
                return error.square().sum(1) / count - self.config.scale_invariance * common.square()
            case "log_l1":
                return error.abs().sum(1) / count
            case "berhu":
                # Not the answer: where that ends, nothing would be learned any more.
                return berhu(logs.clamp(max=float(np.log(high)) + 1).exp() - true, known, count)
        raise ConfigError(f"objective.loss '{self.config.loss}' is not known")

    def answer(self, output: Tensor) -> Tensor:
        """Metres within the range of the task."""
        low, high = np.log(self.config.min_depth), np.log(self.config.max_depth)
        return output.float().clamp(float(low), float(high)).exp()


def berhu(error: Tensor, known: Tensor, count: Tensor) -> Tensor:
    """Absolute errors up to a fifth of the largest one of the image, squared ones beyond (Laina et al. 2016, eq. 3).

    Args:
        error: (B, P).
        known: (B, P) 1 where it counts, else 0.
        count: (B,) how many count.

    Returns:
        (B,) mean.
    """
    size = error.abs() * known
    edge = (size.detach().amax(1, keepdim=True) / 5).clamp(min=1e-6)
    return torch.where(size <= edge, size, (size.square() + edge.square()) / (2 * edge)).mul(known).sum(1) / count


class Normals:
    """One minus the cosine of the angle to the true direction."""

    name = "normals"
    is_dense = True
    num_outputs = 3

    def __init__(self, config: NormalsConfig, modality: Modality) -> None:
        _needs_channels(modality, 3, "normals")
        self.config, self.modality = config, modality

    def scored(self, target: np.ndarray) -> int:
        """Pixels that have a normal."""
        return int((np.linalg.norm(target, axis=0) > _SHORTEST_NORMAL).sum())

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) directions of any length."""
        known = (target.norm(dim=1) > _SHORTEST_NORMAL).float()
        return ((1 - F.cosine_similarity(output.float(), target, dim=1)) * known).flatten(1).sum(1)

    def answer(self, output: Tensor) -> Tensor:
        """Unit normals."""
        return F.normalize(output.float(), dim=1)


def _needs_channels(modality: Modality, channels: int, task: str) -> None:
    if modality.is_discrete or not modality.is_grid or modality.channels != channels:
        raise ConfigError(
            f"objective.modality is '{modality.name}'; {task} needs an image of {channels} channel"
            f"{'s' if channels > 1 else ''} in natural units"
        )
