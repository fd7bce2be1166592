"""What a setting of the study of AIM's prefix is: photographs, their patches, a trunk, and probes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MlpHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig


class Row(NamedTuple):
    """How a measure is told.

    Args:
        title: what it is called.
        factor: what it is multiplied by.
        digits: behind the point.
    """

    title: str
    factor: float = 1.0
    digits: int = 3


def percent(title: str) -> Row:
    """Of a share."""
    return Row(f"{title}, %", 100.0, 1)


class Photographs(Protocol):
    """What a trunk is trained on and tested on, (n, C, H, W) normalised each; probes know what else there is."""

    @property
    def train(self) -> Tensor: ...

    @property
    def test(self) -> Tensor: ...


@dataclass(frozen=True)
class Setting(ABC):
    """What is trained, and how it is probed.

    Args:
        dim, depth, num_heads, patch_size: of the trunk; the head has its width.
        steps, batch, lr: of pretraining.
        num_train, num_probe, num_test: photographs to pretrain on, to fit probes on (the first of these), to test on.
    """

    dim: int
    depth: int
    num_heads: int
    patch_size: int
    steps: int
    batch: int
    lr: float
    num_train: int
    num_probe: int
    num_test: int

    source: ClassVar[Path]
    """Folder of the photographs, unless another is given."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, Row]:
        """What the probes measure, in the order of the table."""

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """The photographs as patches."""

    @abstractmethod
    def photographs(self, source: Path, output: Path) -> Any:
        """Read them.

        Args:
            source: folder that they lie in.
            output: folder of the study, for what has to be made first.
        """

    @abstractmethod
    def probes(self, model: Multimodal, data: Any, causal: bool) -> dict[str, float]:
        """What probes reach, by the keys of `rows`.

        Args:
            model: whose features they read.
            data: of `photographs`.
            causal: each patch sees those before it, instead of all.
        """

    @property
    def modalities(self) -> ModalitySet:
        return ModalitySet([self.modality])

    @property
    def probed(self) -> list[int]:
        """The last half of the blocks, the mean of whose outputs is probed."""
        return list(range(self.depth // 2, self.depth))

    def model(self, seed: int) -> Multimodal:
        config = MultimodalConfig(
            dim=self.dim, encoder_depth=0, decoder_depth=self.depth, num_heads=self.num_heads, activation="gelu_tanh",
            norm_bias=True, patch_bias=True, patch_norm=True, modality_embeddings=False,
            vector_head=MlpHeadConfig(dim=self.dim, depth=2),
        )  # fmt: skip
        return Multimodal(self.modalities, config, seed)

    def objective(self, prefix: Any) -> Autoregressive:
        return Autoregressive(AutoregressiveConfig(prefix=prefix, standardize=True), self.modalities)
