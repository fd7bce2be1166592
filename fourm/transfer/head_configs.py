"""Configuration of heads, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range
from fourm.registry import Registry


@dataclass(frozen=True)
class LinearConfig:
    """A linear layer on the mean of all tokens, or on every token of a map.

    Args:
        norm: normalise each feature vector first.
        dropout: of the features.
    """

    target: ClassVar[str] = "fourm.transfer.heads:linear"

    norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "dropout", least=0, below=1)


@dataclass(frozen=True)
class AttentiveConfig:
    """A learned query that attends to all tokens, and a linear layer (AIM, El-Nouby et al. 2024, sec. 4).

    Args:
        num_heads: of the attention; None: as many as the encoder's.
        num_queries: whose outputs are averaged.
        form: `block` normalises each token, projects queries and outputs and has biases. `aim` is the published one:
            tokens normalised by the statistics of the batch (of each rank), keys and values projected, no biases.
    """

    target: ClassVar[str] = "fourm.transfer.heads:attentive"

    num_heads: int | None = 8
    num_queries: int = 1
    form: Literal["block", "aim"] = "block"

    def __post_init__(self) -> None:
        check_range(self, "num_heads", "num_queries", least=1)


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Tokens unfolded into a finer map, ConvNeXt blocks, and a linear layer: the dense head of 4M (Mizrahi et al. 2023)
    and MultiMAE (Bachmann et al. 2022, sec. B).

    Args:
        dim: channels of each token before it is unfolded; `dim / unfold^2` are left after it.
        unfold: places per side that a token becomes.
        depth: number of blocks.
        drop_path: stochastic depth of the blocks.
    """

    target: ClassVar[str] = "fourm.transfer.dense:ConvNeXtHead"

    dim: int = 6144
    unfold: int = 4
    depth: int = 4
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "dim", "unfold", "depth", least=1)
        check_range(self, "drop_path", least=0, below=1)
        if self.dim % self.unfold**2:
            raise ConfigError(f"dim is {self.dim}; expected a multiple of unfold^2 = {self.unfold**2}")


@dataclass(frozen=True)
class UPerNetConfig:
    """Pooling at several scales and a top-down pyramid (Xiao et al. 2018) on four maps.

    Args:
        dim: channels.
        bins: sides of the pooled maps.
        dropout: before the last layer.
    """

    target: ClassVar[str] = "fourm.transfer.upernet:UPerNetHead"

    dim: int = 512
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "dim", "bins", least=1)
        check_range(self, "dropout", least=0, below=1)


HEADS = Registry(
    "head",
    {
        "linear": "fourm.transfer.head_configs:LinearConfig",
        "attentive": "fourm.transfer.head_configs:AttentiveConfig",
        "convnext": "fourm.transfer.head_configs:ConvNeXtConfig",
        "upernet": "fourm.transfer.head_configs:UPerNetConfig",
        "mask_rcnn": "fourm.transfer.detector_config:MaskRCNNConfig",
        "cascade_mask_rcnn": "fourm.transfer.detector_config:CascadeMaskRCNNConfig",
    },
)
"""A config's `target(config, backbone, num_outputs, dense)` is a head: (backbone, inputs, present) -> outputs."""
