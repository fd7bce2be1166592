"""Image decoders that attend to vectors, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fourm.config import fill_preset, slot
from fourm.errors import ConfigError
from fourm.nn.configs import NoiseConfig, SamplingConfig, check_sampling
from fourm.nn.vision_configs import VisionConfig
from fourm.ranges import check_range, check_widths
from fourm.registry import Registry

_SD15: dict[str, Any] = {}
_SDXL: dict[str, Any] = {
    "widths": (320, 640, 1280),
    "attention_depth": (0, 2, 10),
    "num_heads": (5, 10, 20),
    "linear_projection": True,
    "pooled": True,
}
UNET_PRESETS: dict[str, dict[str, Any]] = {"sd15": _SD15, "sdxl": _SDXL}

IMAGE_ENCODERS = Registry(
    "encoder",
    {
        "conv": "fourm.tokenizers.network_configs:ConvConfig",
        "vit": "fourm.tokenizers.network_configs:ViTConfig",
        "vision": "fourm.nn.vision_configs:VisionConfig",
    },
)
"""Networks that make the vectors of an image: a map of them, read row by row, or a tower and a pooler."""


@dataclass(frozen=True)
class CrossUNetConfig:
    """A U-Net of diffusers that attends to rows of vectors, `UNet2DConditionModel`.

    `preset: sd15 | sdxl` fills the sizes of Stable Diffusion 1.5 (Rombach et al. 2022) and SDXL (Podell et al. 2023);
    other keys override it.

    Args:
        widths: channels of each level, finest first.
        num_blocks: residual blocks per level.
        attention_depth: transformer blocks behind each residual block, by level; 0: none.
        num_heads: of their attention, by level.
        linear_projection: linear layers instead of 1 x 1 convolutions around a transformer.
        groups: of the group norms.
        patch_size: pixels per side that are folded into channels before the network.
        cross_dim: length of the vectors that it attends to. None: that of the condition; else each condition is mapped
            to it by a linear layer.
        pooled: it is also told the mean of the vectors, the size of the image and its crop (SDXL).
        source: folder in diffusers' layout with `unet`, or a repository on the Hub, to start from; layers that other
            conditions make impossible start at random. None: all at random.
        revision: of the repository.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    num_blocks: int = 2
    attention_depth: tuple[int, ...] = (1, 1, 1, 0)
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    linear_projection: bool = False
    groups: int = 32
    patch_size: int = 1
    cross_dim: int | None = None
    pooled: bool = False
    source: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        check_range(self, "widths", "num_blocks", "num_heads", "groups", "patch_size", "cross_dim", least=1)
        check_range(self, "attention_depth", least=0)
        levels = {len(self.widths), len(self.attention_depth), len(self.num_heads)}
        if len(levels) != 1 or not self.widths:
            raise ConfigError(
                f"widths, attention_depth and num_heads have {len(self.widths)}, {len(self.attention_depth)} and "
                f"{len(self.num_heads)} levels; give one of each per level"
            )
        check_widths(self.widths, self.groups)
        uneven = [pair for pair in zip(self.widths, self.num_heads, strict=True) if pair[0] % pair[1]]
        if uneven:
            raise ConfigError(f"a level of width {uneven[0][0]} does not divide into num_heads {uneven[0][1]}")

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in `preset`."""
        return fill_preset(values, UNET_PRESETS)

    @property
    def stride(self) -> int:
        """What it paints has sides that are multiples of this."""
        return int(self.patch_size * 2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class LatentsConfig:
    """A frozen autoencoder whose latents are painted, `AutoencoderKL` of diffusers.

    Args:
        source: folder in diffusers' layout with `vae`, or a repository on the Hub; null: random weights of the sizes
            below, for tests.
        revision: of the repository.
        seed: of random weights.
        channels: of the latents.
        widths, num_blocks, groups: of its levels, finest first.
        scale: of latents, so that they have about unit deviation: .18215 of SD 1.5, .13025 of SDXL.
    """

    source: str | None
    revision: str | None = None
    seed: int = 0
    channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    num_blocks: int = 2
    groups: int = 32
    scale: float = 0.18215

    def __post_init__(self) -> None:
        check_range(self, "channels", "widths", "num_blocks", "groups", least=1)
        check_range(self, "scale", above=0)
        check_widths(self.widths, self.groups)

    @property
    def stride(self) -> int:
        """Pixels per side of one latent."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class ConditionConfig:
    """A row of vectors that the U-Net attends to.

    Args:
        encoder: network that makes them of the image itself; None: they are made elsewhere, and training reads them
            from files beside the images (npz with `emb`).
        num_tokens, dim: of vectors made elsewhere or by `kind: vision`; left out with an encoder that makes a map.
        size: pixels per side of the image as an encoder of `kind: vision` reads it, where it is painted at another size
            (the towers of CLIP read 224, Stable Diffusion 1.5 paints 512); None: as it is painted.
        source: folder of the files; None: the name of the condition.
        empty: what stands for no condition: `zeros`; `black`, what the encoder makes of an image of zeros (Emu2); or
            `file`, the vectors of `empty_file` (Emu: those generated for the empty prompt).
        empty_file: safetensors with `vectors` (num_tokens, dim).
        gain: the U-Net attends to what vectors differ by from those for no condition, times this; None: to the vectors
            themselves. A small language model that is trained to say vectors lets them differ little around large
            means, which a U-Net does not hear.
        attends: `joint`: the U-Net attends to the vectors of all such conditions at once, one row behind the other.
            `apart`: by keys and values of their own, whose outputs are added (IP-Adapter, Ye et al. 2023).
        dropout: share of the training images that are shown `empty` instead of this condition alone. Of two that say
            much the same the U-Net learns to hear only one, unless it has to do without it at times.
    """

    encoder: Any = slot(IMAGE_ENCODERS, optional=True)
    num_tokens: int | None = None
    dim: int | None = None
    size: int | None = None
    source: str | None = None
    empty: Literal["zeros", "black", "file"] = "zeros"
    empty_file: Path | None = None
    gain: float | None = None
    attends: Literal["joint", "apart"] = "joint"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "num_tokens", "dim", "size", least=1)
        check_range(self, "dropout", least=0, below=1)
        check_range(self, "gain", above=0)
        sizes, is_map = (self.num_tokens, self.dim), hasattr(self.encoder, "patch_size")
        if (None in sizes) != is_map or (is_map and sizes != (None, None)):
            raise ConfigError(
                f"num_tokens and dim of a condition are {sizes[0]} and {sizes[1]}: an encoder that makes a map decides "
                "them itself, which leaves them out; vectors made elsewhere, or by kind vision, need both"
            )
        if self.size is not None and not isinstance(self.encoder, VisionConfig):
            raise ConfigError(
                f"size of a condition is {self.size}, but no encoder of kind vision reads it: leave it out"
            )
        if self.empty == "black" and self.encoder is None:
            raise ConfigError("empty is black, which needs an encoder; use zeros, or file with empty_file")
        if (self.empty == "file") != (self.empty_file is not None):
            raise ConfigError(f"empty is {self.empty} and empty_file {self.empty_file}: they belong together")


@dataclass(frozen=True)
class VisualDecoderConfig:
    """A diffusion model that paints what vectors say: the visual decoders of Emu and Emu2 (Sun et al. 2023).

    Args:
        conditions: name -> vectors that the U-Net attends to. With one that has an encoder, the whole is an autoencoder
            (Emu2); vectors that a language model generated are read from files (Emu).
        freeze_encoder: the encoders stay as they are; see `encoder_from`.
        unet: the denoiser.
        latents: the space that is painted in; None: pixels.
        noise: the noise process; the default is that of Stable Diffusion.
        noise_offset: see Emu2's .1: deviation of noise that is the same in all places of a channel.
        sampling: how images are decoded.
        condition_dropout: share of the training images that are shown `empty` instead of their condition.
    """

    target: ClassVar[str] = "fourm.tokenizers.visual_decoder:VisualDecoder"
    teacher: ClassVar[None] = None

    conditions: dict[str, ConditionConfig]
    freeze_encoder: bool = False
    unet: CrossUNetConfig = field(default_factory=CrossUNetConfig)
    latents: LatentsConfig | None = None
    noise: NoiseConfig = field(
        default_factory=lambda: NoiseConfig(schedule="scaled_linear", betas=(0.00085, 0.012), prediction="epsilon")
    )
    noise_offset: float = 0.0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    condition_dropout: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "condition_dropout", least=0, below=1)
        check_range(self, "noise_offset", least=0)
        if not self.conditions:
            raise ConfigError("conditions is empty; give at least one, for instance image: {encoder: {kind: conv}}")
        if not any(condition.attends == "joint" for condition in self.conditions.values()):
            raise ConfigError(
                "every condition attends apart; one has to be joint, to which the U-Net's own layers attend"
            )
        if self.latents is not None and self.unet.patch_size != 1:
            raise ConfigError(
                f"unet.patch_size is {self.unet.patch_size}, but latents are painted one by one: set it to 1"
            )
        self.check_sampling(self.sampling)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Whether images can be decoded so.

        Raises:
            ConfigError: if the scheduler does not go with the noise process, or guidance without what it needs.
        """
        check_sampling(self.noise, sampling)
        if sampling.guidance != 1.0 and not self.condition_dropout:
            raise ConfigError(
                f"sampling.guidance is {sampling.guidance}, but the U-Net has never been without its condition: train "
                "it with condition_dropout, for instance 0.1"
            )

    @property
    def has_trained_encoders(self) -> bool:
        """Whether all encoders are towers that come with weights, and poolers that have none."""
        encoders = [condition.encoder for condition in self.conditions.values() if condition.encoder is not None]
        return all(isinstance(encoder, VisionConfig) and encoder.is_trained for encoder in encoders)

    @property
    def stride(self) -> int:
        """Image sides have to be multiples of this."""
        return self.unet.stride * (1 if self.latents is None else self.latents.stride)
