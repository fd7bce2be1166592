"""Encoders and decoders of tokenizers, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.config import fill_preset
from fourm.errors import ConfigError
from fourm.nn.configs import Activation
from fourm.ranges import check_range, check_widths

VIT_SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 512, "depth": 8, "num_heads": 8},
    "base": {"dim": 768, "depth": 12, "num_heads": 12},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16},
}


@dataclass(frozen=True)
class ConvConfig:
    """A small convolutional encoder or decoder: the stem folds patches, every further level halves the grid.

    Args:
        widths: channels of each level, finest first; a token covers `stem * 2 ** (levels - 1)` pixels.
        stem: pixels per side that the first layer folds into one position.
        num_blocks: residual blocks of each level, finest first.
        groups: of the group norms.
    """

    target: ClassVar[str] = "fourm.tokenizers.conv"

    widths: tuple[int, ...] = (32, 128)
    stem: int = 4
    num_blocks: tuple[int, ...] = (1, 1)
    groups: int = 8

    def __post_init__(self) -> None:
        check_range(self, "widths", "stem", "groups", least=1)
        check_range(self, "num_blocks", least=0)
        if not self.widths or len(self.widths) != len(self.num_blocks):
            raise ConfigError(
                f"widths has {len(self.widths)} levels and num_blocks {len(self.num_blocks)}; "
                "give one of each per level"
            )
        check_widths(self.widths, self.groups)

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return int(self.stem * 2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class VQGANConfig:
    """The convolutional networks of VQGAN (Esser et al. 2021), as LVM's tokenizer has them (Bai et al. 2023, sec. 4.1).

    The defaults are LVM's sizes: 16 x 16 pixels per token.

    Args:
        widths: channels of each level, finest first; every level but the first halves the map.
        num_blocks: residual blocks of a level of the encoder; the decoder has one more.
        attention_levels: levels whose blocks are each followed by attention.
        middle_attention: attention between the two blocks of the coarsest map.
        latent_dim: channels between network and codebook.
        groups: of the group norms.
        stem_width: channels of the encoder's first convolution; None: those of the finest level.

    Attributes:
        later_keys: keys that older tokenizers do not have; where they are None, a tokenizer's hash leaves them out.
    """

    target: ClassVar[str] = "fourm.tokenizers.vqgan"
    later_keys: ClassVar[tuple[str, ...]] = ("stem_width",)

    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    num_blocks: int = 2
    attention_levels: tuple[int, ...] = (4,)
    middle_attention: bool = True
    latent_dim: int = 256
    groups: int = 32
    stem_width: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "widths", "num_blocks", "latent_dim", "groups", "stem_width", least=1)
        check_widths(self.widths, self.groups)
        if self.stem_width is not None and self.stem_width % self.groups:
            raise ConfigError(f"stem_width is {self.stem_width}; expected a multiple of groups {self.groups}")
        far = [level for level in self.attention_levels if not 0 <= level < len(self.widths)]
        if far:
            raise ConfigError(
                f"attention_levels holds {far[0]}; expected numbers of levels, from 0 to {len(self.widths) - 1}"
            )

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer as encoder or decoder (4M, Mizrahi et al. 2023, sec. A.2).

    `preset: small | base | large` fills dim, depth and num_heads; other keys override it.

    Args:
        dim, depth, num_heads: sizes.
        patch_size: pixels per token side; 1 for feature maps.
        grid_size: tokens per side of the stored position table; inputs of other sizes take a bicubic resize of it.
            None: the modality's.
        mlp_ratio, activation: of the blocks.
        post_mlp: one more MLP in float32 after the blocks, as in ViT-VQGAN (Yu et al. 2022).
        output_blocks: ConvNeXt blocks on the decoded image (4M-21's instance masks).
        activation_checkpointing: recompute activations in the backward pass.
    """

    target: ClassVar[str] = "fourm.tokenizers.vit"
    training_keys: ClassVar[tuple[str, ...]] = ("activation_checkpointing",)

    dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    grid_size: int | None = None
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    post_mlp: bool = True
    output_blocks: int = 0
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_range(self, "dim", "num_heads", "patch_size", "grid_size", least=1)
        check_range(self, "depth", "output_blocks", least=0)
        check_range(self, "mlp_ratio", above=0)
        if self.dim % 4 or self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 and of num_heads {self.num_heads}")

    @staticmethod
    def expand(values: dict[str, Any]) -> dict[str, Any]:
        """Fill in `preset`."""
        return fill_preset(values, VIT_SIZES)


@dataclass(frozen=True)
class MLPConfig:
    """A residual MLP as encoder or decoder of single vectors, or of maps whose places do not look at each other.

    4M-21's networks for global features and poses have width 1024 and depth 6 (Bachmann et al. 2024).

    Args:
        width: of the layers between the blocks.
        depth: residual blocks.
        mlp_ratio: hidden width of a block : width.
    """

    target: ClassVar[str] = "fourm.tokenizers.mlp"
    patch_size: ClassVar[int] = 1

    width: int = 1024
    depth: int = 6
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        check_range(self, "width", least=1)
        check_range(self, "depth", least=0)
        check_range(self, "mlp_ratio", above=0)
