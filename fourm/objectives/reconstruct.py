"""Rebuild the input through a codebook: the objective of image tokenizers (van den Oord et al. 2017).

A direct decoder is scored on the image, a diffusion decoder on what its noise process asks for. Features are made of
images by a frozen teacher, here, on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError
from fourm.modality import Modality
from fourm.objectives.base import Loss
from fourm.objectives.reconstruct_config import ReconstructConfig

IGNORED = -1


class Reconstruction(Protocol):
    """What a tokenizer's forward pass returns.

    Attributes:
        output: (B, C, H, W).
        commitment: (B,), or nothing of a network without codes.
        target: (B, C, H, W) what the output should be; None: the image.
    """

    @property
    def output(self) -> Tensor: ...

    @property
    def commitment(self) -> Tensor | None: ...

    @property
    def target(self) -> Tensor | None: ...


class Shown(NamedTuple):
    """One sample: its image, the seed of all that a decoder draws for it, and vectors given beside it."""

    image: np.ndarray
    seed: int
    given: Mapping[str, np.ndarray] = {}


@dataclass(frozen=True)
class ImageBatch:
    """Images or label maps, with how many numbers of them are scored.

    Args:
        images: (B, C, H, W) float32 normalised, or (B, H, W) int64 labels, -1 where there is none; the images that a
            teacher reads, where one makes the values.
        seeds: (B,) int64, each sample's own.
        num_scored: values, places or labelled pixels: what the sum of the loss is divided by.
        given: name -> (B, N, d) vectors beside the images.
    """

    images: Tensor
    seeds: Tensor
    num_scored: int
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        given = {name: change(vectors) for name, vectors in self.given.items()}
        return ImageBatch(change(self.images), change(self.seeds), self.num_scored, given)


class Reconstruct:
    """Distance between image and reconstruction, plus the commitment of the latents to their codes.

    Args:
        config: which distances, and their weights.
        modality: the raw modality.
        num_tokens: tokens of an image of the modality's size, for throughput; None: one per patch.
        teacher: makes the values of a modality that has one of images (B, 3, H, W).
        given: vectors that the network is given beside the images.
        has_codes: whether latents are committed to codes.
        sizes: rows of vectors that the network estimates, of which this objective knows nothing.

    Raises:
        ConfigError: if a distance does not go with the values of the modality.
        CheckpointError: if the weights of a perceptual distance cannot be loaded.
    """

    def __init__(
        self,
        config: ReconstructConfig,
        modality: Modality,
        num_tokens: int | None = None,
        teacher: nn.Module | None = None,
        *,
        given: Sequence[Modality] = (),
        has_codes: bool = True,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        if sizes:
            raise ConfigError("this tokenizer estimates rows of vectors and no images: set objective.kind to estimate")
        _check_loss(config, modality)
        if (modality.teacher is None) != (teacher is None):
            raise ConfigError(f"modality '{modality.name}' has teacher {modality.teacher}, given was {teacher}")
        self.config = config
        self.modality, self.given = modality, tuple(given)
        height, width = modality.image_size
        self.pixels_per_token = height * width / (num_tokens or modality.num_tokens)
        self.frozen: dict[str, nn.Module] = {} if teacher is None else {"teacher": teacher}
        self.parts: tuple[str, ...] = ("reconstruct", "commit") if has_codes else ("reconstruct",)
        if config.perceptual is not None:
            from fourm.objectives.perceptual import build_perceptual

            self.frozen["perceptual"] = build_perceptual(config.perceptual, modality)
            self.parts += ("perceptual",)

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes prepare samples; the networks stay where the training is."""
        return {**self.__dict__, "frozen": {}}

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Shown:
        """The image of one sample, its seed, and the vectors beside it."""
        for modality in (self.modality, *self.given):
            if modality.name not in sample:
                raise DataError(
                    f"a sample has no '{modality.name}'; it has {', '.join(sample) or 'nothing'}. "
                    "Check the recipe's data"
                )
        given = {modality.name: _rows(sample[modality.name], modality) for modality in self.given}
        return Shown(np.asarray(sample[self.modality.name]), int(rng.integers(1 << 63)), given)

    def collate(self, items: Sequence[Shown]) -> ImageBatch:
        """Stack images of one size."""
        images = np.stack([item.image for item in items])
        seeds = torch.tensor([item.seed for item in items], dtype=torch.int64)
        if self.modality.is_discrete:
            labels = torch.from_numpy(images.astype(np.int64, copy=False))
            return ImageBatch(labels, seeds, int((images != IGNORED).sum()))
        values = torch.from_numpy(images.astype(np.float32, copy=False))
        height, width = self.modality.map_size(images.shape[-2:])
        channels = images.shape[1] if self.modality.teacher is None else self.modality.map_channels or 1
        places = len(images) * height * width
        given = {m.name: torch.from_numpy(np.stack([item.given[m.name] for item in items])) for m in self.given}
        return ImageBatch(values, seeds, places if self._is_per_place else places * channels, given)

    def counts(self, batch: ImageBatch) -> dict[str, float]:
        """Scored values, and images for every other part."""
        return {part: float(batch.num_scored if part == "reconstruct" else len(batch.images)) for part in self.parts}

    def num_tokens(self, batch: ImageBatch) -> int:
        height, width = batch.images.shape[-2:]
        return round(len(batch.images) * height * width / self.pixels_per_token)

    def loss(self, model: nn.Module, batch: ImageBatch) -> Loss:
        """Mean distance per scored value plus the weighted mean commitment and perceptual distance."""
        teacher = self.frozen.get("teacher")
        values = batch.images if teacher is None else teacher(batch.images)
        result: Reconstruction = model(values, batch.seeds, *([batch.given] if self.given else []))
        output = result.output.float()
        target = values if result.target is None else result.target
        # A decoder may be scored in a space of its own, such as latents: still the mean over its numbers.
        numbers = target.numel() // (target.shape[1] if self._is_per_place else 1)
        share = 1.0 if result.target is None else batch.num_scored / numbers
        sums = {"reconstruct": self._distance(output, target) * share}
        if result.commitment is not None:
            sums["commit"] = result.commitment.sum()
        weights = {"commit": self.config.commit_weight}
        if "perceptual" in self.frozen:
            # A denoiser is only used here with images as its output.
            sums["perceptual"] = self.frozen["perceptual"](output, values).sum()
            weights["perceptual"] = self.config.perceptual.weight
        counts = self.counts(batch)
        return Loss({part: (sums[part], counts[part]) for part in self.parts}, "weighted", weights)

    @property
    def _is_per_place(self) -> bool:
        return self.config.loss == "cosine"

    def _distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum over the batch."""
        match self.config.loss:
            case "cross_entropy":
                return F.cross_entropy(output, target, ignore_index=IGNORED, reduction="sum")
            case "mse":
                return F.mse_loss(output, target, reduction="sum")
            case "l1":
                return F.l1_loss(output, target, reduction="sum")
            case "smooth_l1":
                return F.smooth_l1_loss(output, target, reduction="sum")
            case "binary_cross_entropy":
                return F.binary_cross_entropy_with_logits(output, target, reduction="sum")
            case "cosine":
                return (1 - F.cosine_similarity(output, target, dim=1)).sum()
        raise ConfigError(f"objective.loss '{self.config.loss}' is not known")


def _rows(vectors: Any, modality: Modality) -> np.ndarray:
    """(N, d) float32, as many as the modality says."""
    found = np.asarray(vectors, np.float32)
    if len(found) != modality.num_tokens:
        raise DataError(
            f"a sample has {len(found)} vectors of '{modality.name}', expected {modality.num_tokens}: make its file "
            "again, or correct num_tokens of the condition"
        )
    return found


def _check_loss(config: ReconstructConfig, modality: Modality) -> None:
    """Whether the loss goes with what the modality holds."""
    if modality.is_discrete:
        kind, fitting = "a label map", ["cross_entropy"]
    elif modality.normalization == "mask":
        kind, fitting = "a mask", ["binary_cross_entropy"]
    else:
        kind, fitting = "continuous", ["l1", "mse", "smooth_l1", "cosine"]
    if config.loss not in fitting:
        raise ConfigError(
            f"objective.loss is '{config.loss}', but modality '{modality.name}' is {kind}: use {' or '.join(fitting)}"
        )
    if modality.normalization == "mask" and modality.channels != 1:
        raise ConfigError(
            f"modality '{modality.name}' has normalization mask and {modality.channels} channels; expected 1: several "
            "masks are a label map, or several samples"
        )
