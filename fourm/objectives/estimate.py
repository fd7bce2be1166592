"""Regress several rows of vectors at once: the conditions of a visual decoder from an image's tokens (VL-GPT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.objectives.base import Loss
from fourm.objectives.reconstruct import ImageBatch, Reconstruct
from fourm.objectives.reconstruct_config import EstimateConfig, ReconstructConfig


class Estimates(Protocol):
    """What a network returns: name -> (B, N, d) estimated, and the same of what is true."""

    @property
    def outputs(self) -> Mapping[str, Tensor]: ...

    @property
    def targets(self) -> Mapping[str, Tensor]: ...


class Estimate(Reconstruct):
    """Weighted sum of the mean squared errors of each row (Zhu et al. 2023, eq. 1; weights 1 and 1).

    Args:
        config: the weights.
        modality, num_tokens, teacher, given: see `Reconstruct`.
        sizes: name -> (number of vectors, their length).

    Raises:
        ConfigError: if the network estimates nothing, or not what has a weight.
    """

    def __init__(
        self,
        config: EstimateConfig,
        modality: Modality,
        num_tokens: int | None = None,
        teacher: nn.Module | None = None,
        *,
        given: Sequence[Modality] = (),
        sizes: Mapping[str, tuple[int, int]] | None = None,
        **_: Any,
    ) -> None:
        if not sizes:
            raise ConfigError("objective.kind estimate is for tokenizer.kind detokenizer; use reconstruct")
        strange = sorted(config.weights.keys() - sizes.keys())
        if strange:
            raise ConfigError(f"objective.weights names '{strange[0]}'; the conditions are {', '.join(sizes)}")
        super().__init__(ReconstructConfig(), modality, num_tokens, teacher, given=given, has_codes=False)
        self.weights, self.sizes = dict(config.weights), dict(sizes)
        self.parts = tuple(sizes)

    def counts(self, batch: ImageBatch) -> dict[str, float]:
        """Numbers of each row."""
        return {name: float(len(batch.images) * count * dim) for name, (count, dim) in self.sizes.items()}

    def loss(self, model: nn.Module, batch: ImageBatch) -> Loss:
        """Squared errors, row by row."""
        result: Estimates = model(batch.images, batch.seeds, batch.given)
        counts = self.counts(batch)
        sums = {
            name: F.mse_loss(result.outputs[name].float(), result.targets[name].float(), reduction="sum")
            for name in self.parts
        }
        return Loss({name: (sums[name], counts[name]) for name in self.parts}, "weighted", self.weights)
