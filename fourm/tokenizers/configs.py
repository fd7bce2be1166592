"""What a recipe says about tokenizers, free of torch. One line in a table below and one file add a new kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fourm.config import slot
from fourm.errors import ConfigError
from fourm.nn.configs import Activation, NoiseConfig, SamplingConfig
from fourm.ranges import check_range
from fourm.registry import Registry
from fourm.tokenizers.teacher_configs import TEACHER_KINDS

TWO_BYTES = 1 << 15
"""Vocabularies up to this size are stored as 16-bit ids, larger ones as 32-bit ids."""
MOST_CODES = 1 << 31
"""The largest vocabulary that token files can hold."""

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
        odd = [width for width in self.widths if width % self.groups]
        if odd:
            raise ConfigError(f"widths {odd} are not multiples of groups {self.groups}")

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return int(self.stem * 2 ** (len(self.widths) - 1))


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
        own = {key: value for key, value in values.items() if key != "preset"}
        name = values.get("preset")
        if name is None:
            return own
        if name not in VIT_SIZES:
            raise ConfigError(f"preset '{name}' is not known; known: {', '.join(VIT_SIZES)}")
        return {**VIT_SIZES[name], **own}


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


@dataclass(frozen=True)
class EmaConfig:
    """Vector quantizer whose codebook follows running means of its latents (van den Oord et al. 2017, app. A.1).

    Args:
        codebook_size: number of codes.
        dim: length of a code.
        cosine: compare directions instead of distances (Yu et al. 2022).
        normalize_latents: latents get length 1 before they are compared and pulled to their code; only with `cosine`.
        decay: of the running means.
        revive_below: a code used less than this share of the mean usage is replaced by a latent drawn from the batch;
            0 never.
        kmeans_steps: Lloyd's iterations on the first batch, whose means are the first codes; 0 begins with random
            latents of the batch.
        seed: of those draws.
    """

    target: ClassVar[str] = "fourm.tokenizers.ema:EmaQuantizer"
    training_keys: ClassVar[tuple[str, ...]] = ("decay", "revive_below", "kmeans_steps", "seed")

    codebook_size: int = 512
    dim: int = 16
    cosine: bool = True
    normalize_latents: bool = True
    decay: float = 0.99
    revive_below: float = 1 / 32
    kmeans_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.dim)
        check_range(self, "decay", "revive_below", least=0, below=1)
        check_range(self, "kmeans_steps", least=0)


@dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantization (Mentzer et al. 2023): no codebook to learn, none to collapse.

    Args:
        levels: numbers of levels that each channel of a latent is rounded to; the vocabulary is their product. The
            paper's choices: 8, 6, 5 for 240 codes; 8, 5, 5, 5 for 1,000; 7, 5, 5, 5, 5 for 4,375; 8, 8, 8, 6, 5 for
            15,360.
    """

    target: ClassVar[str] = "fourm.tokenizers.fsq:FSQ"

    levels: tuple[int, ...] = (8, 8, 8)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ConfigError(
                f"levels is {list(self.levels)}; expected a number of levels for each channel, at least 3 each (at 2 "
                "the border between both would lie far from 0)"
            )
        check_codebook(self.codebook_size, self.dim)

    @property
    def dim(self) -> int:
        """Length of a latent."""
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)


@dataclass(frozen=True)
class MemcodesConfig:
    """Memory codes: each of several heads gives a place one code (4M-21's global features and poses).

    A place gets `num_heads` tokens, in the block of tokens that is nearest to a square: with 16 heads, one vector
    becomes a grid of 4 x 4.

    Args:
        num_heads: codes per place.
        codebook_size: codes of each head.
        dim: length of a latent, shared out among the heads.
        temperature: of the draws in training.
    """

    target: ClassVar[str] = "fourm.tokenizers.memcodes:MemoryCodes"
    training_keys: ClassVar[tuple[str, ...]] = ("temperature",)

    num_heads: int = 8
    codebook_size: int = 1024
    dim: int = 256
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.dim)
        check_range(self, "num_heads", least=1)
        check_range(self, "temperature", above=0)
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads}")


def check_codebook(size: int, dim: int) -> None:
    """Whether a codebook can be one.

    Raises:
        ConfigError: if it has fewer than 2 codes, or more than token files can hold.
    """
    if size < 2 or dim < 1:
        raise ConfigError(f"codebook_size {size} must be 2 or more and dim {dim} 1 or more")
    if size > MOST_CODES:
        raise ConfigError(
            f"{size:,} codes are more than token files can hold: their ids have 32 bits, for at most {MOST_CODES:,} "
            "codes. Use a smaller codebook, for instance of 16,384 codes"
        )


QUANTIZERS = Registry(
    "quantizer",
    {
        "ema": "fourm.tokenizers.configs:EmaConfig",
        "fsq": "fourm.tokenizers.configs:FSQConfig",
        "memcodes": "fourm.tokenizers.configs:MemcodesConfig",
    },
)
_NETWORKS = {
    "conv": "fourm.tokenizers.configs:ConvConfig",
    "mlp": "fourm.tokenizers.configs:MLPConfig",
    "vit": "fourm.tokenizers.configs:ViTConfig",
}
ENCODERS = Registry("encoder", _NETWORKS)
DECODERS = Registry("decoder", _NETWORKS)


DENOISERS = Registry("denoiser", {"unet": "fourm.nn.configs:UNetConfig", "uvit": "fourm.nn.configs:UViTConfig"})


@dataclass(frozen=True)
class AutoencoderConfig:
    """The encoding half, which all image tokenizers share.

    Args:
        encoder: network.
        quantizer: what its latents become.
        class_dim: length of the embedding of one class, for label maps.
        freeze_encoder: keep encoder and codebook as they are and train only the decoder; see `encoder_from`.
        teacher: network that makes the values of a modality with `teacher`; None: the one it names.
    """

    target: ClassVar[str]

    encoder: Any = slot(ENCODERS, default="conv")
    quantizer: Any = slot(QUANTIZERS, default="ema")
    class_dim: int = 16
    freeze_encoder: bool = False
    teacher: Any = slot(TEACHER_KINDS, optional=True)

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return int(self.encoder.patch_size)

    @property
    def stride(self) -> int:
        """Image sides have to be multiples of this."""
        return self.patch_size


@dataclass(frozen=True)
class VQVAEConfig(AutoencoderConfig):
    """A vector-quantized autoencoder with a direct decoder.

    Args:
        encoder, quantizer, class_dim, freeze_encoder, teacher: see `AutoencoderConfig`.
        decoder: network of the encoder's patch size.
    """

    target: ClassVar[str] = "fourm.tokenizers.vqvae:VQVAE"

    decoder: Any = slot(DECODERS, default="conv")

    def __post_init__(self) -> None:
        if self.encoder.patch_size != self.decoder.patch_size:
            raise ConfigError(
                f"encoder and decoder must agree on pixels per token: {self.encoder.patch_size} and "
                f"{self.decoder.patch_size}"
            )


@dataclass(frozen=True)
class DiffusionConfig(AutoencoderConfig):
    """What tokenizers that decode by diffusion have in common.

    Args:
        encoder, quantizer, class_dim, freeze_encoder, teacher: see `AutoencoderConfig`.
        noise: the noise process.
        sampling: how images are decoded.
        condition_dropout: share of the training images whose codes are all hidden, which guidance needs.
        masked_condition: smallest and largest share of hidden codes of the other images; null hides none.
    """

    knows_no_codes: ClassVar[bool] = False  # whether the denoiser can do without codes before it is trained to

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    condition_dropout: float = 0.0
    masked_condition: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_range(self, "condition_dropout", least=0, below=1)
        share = self.masked_condition
        if share is not None and not 0 <= share[0] <= share[1] <= 1:
            raise ConfigError(f"masked_condition is {list(share)}; expected two shares with 0 <= first <= second <= 1")
        self.check_sampling(self.sampling)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Whether images can be decoded so.

        Raises:
            ConfigError: if there are more steps than timesteps, or guidance without what it needs.
        """
        if sampling.num_steps > self.noise.num_timesteps:
            raise ConfigError(
                f"sampling.num_steps is {sampling.num_steps}; the process has {self.noise.num_timesteps} timesteps"
            )
        learns_without = self.condition_dropout or self.masked_condition is not None or self.knows_no_codes
        if sampling.guidance != 1.0 and not learns_without:
            raise ConfigError(
                f"sampling.guidance is {sampling.guidance}, but the denoiser has never been without its codes: train "
                "it with condition_dropout, for instance 0.1"
            )
        if self.noise.zero_terminal_snr and sampling.spacing != "trailing":
            raise ConfigError(
                f"sampling.spacing is {sampling.spacing}, but with zero_terminal_snr sampling has to begin at the last "
                "timestep (Lin et al. 2023): use trailing"
            )


@dataclass(frozen=True)
class DiVAEConfig(DiffusionConfig):
    """A tokenizer with a diffusion decoder of its own.

    Args:
        encoder, quantizer, class_dim, freeze_encoder: see `AutoencoderConfig`.
        noise, sampling, condition_dropout, masked_condition: see `DiffusionConfig`.
        denoiser: network conditioned on the codes.
    """

    target: ClassVar[str] = "fourm.tokenizers.divae:DiVAE"

    denoiser: Any = slot(DENOISERS, default="unet")

    @property
    def stride(self) -> int:
        """Image sides have to be multiples of this."""
        return math.lcm(self.patch_size, int(self.denoiser.stride))


@dataclass(frozen=True)
class StableDiffusionConfig:
    """Stable Diffusion 1.5 (Rombach et al. 2022), or a model of its classes with other sizes.

    Args:
        source: a repository on the Hub or a folder, in diffusers' layout, with `unet`, `vae` and `text_encoder`; null:
            random weights of the sizes below. The weights of Stable Diffusion 1.5 are under the CreativeML OpenRAIL-M
            licence.
        revision: of the repository.
        seed: of random weights.
        image_size: shorter side of the images that it works on, in pixels; null takes the modality's.
        widths: channels of each level of the U-Net, finest first; all but the last attend to the prompt.
        num_blocks, num_heads, groups: per level; of its attention; of its group norms.
        text_dim, text_length: of the embedded prompt.
        latent_channels: of the autoencoder.
        vae_widths, vae_blocks: channels of each level of the autoencoder, and blocks per level.
    """

    source: str | None = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str | None = None
    seed: int = 0
    image_size: int | None = 512
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    num_blocks: int = 2
    num_heads: int = 8
    groups: int = 32
    text_dim: int = 768
    text_length: int = 77
    latent_channels: int = 4
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    vae_blocks: int = 2

    def __post_init__(self) -> None:
        check_range(self, "widths", "vae_widths", "num_blocks", "vae_blocks", "num_heads", "groups", least=1)
        check_range(self, "image_size", "text_dim", "text_length", "latent_channels", least=1)
        odd = [width for width in (*self.widths, *self.vae_widths) if width % self.groups]
        if odd or not self.widths or not self.vae_widths:
            raise ConfigError(f"widths {odd} are not multiples of groups {self.groups}")
        if self.image_size is not None and self.image_size % self.stride:
            raise ConfigError(
                f"image_size is {self.image_size}; expected a multiple of {self.stride}, for instance 512"
            )

    @property
    def stride(self) -> int:
        """Pixels per side of one latent."""
        return int(2 ** (len(self.vae_widths) - 1))


@dataclass(frozen=True)
class VQControlNetConfig(DiffusionConfig):
    """A tokenizer that decodes by steering a frozen Stable Diffusion with its codes (Zhang et al. 2023, ControlNet).

    Args:
        encoder, quantizer, class_dim, freeze_encoder: see `AutoencoderConfig`.
        noise, sampling, condition_dropout, masked_condition: see `DiffusionConfig`; the noise process is the one that
            Stable Diffusion 1.5 was trained with. Latents are never clipped. Without any codes, Stable Diffusion paints
            alone, so guidance needs no dropout.
        stable_diffusion: the frozen model.
        copy_unet: the ControlNet begins as a copy of the U-Net; otherwise at random.
        stem_widths: channels of the convolutions through which the codes enter.
        adapter_blocks: ConvNeXt blocks on the map of codes before that.
    """

    target: ClassVar[str] = "fourm.tokenizers.vqcontrolnet:VQControlNet"
    knows_no_codes: ClassVar[bool] = True

    noise: NoiseConfig = field(
        default_factory=lambda: NoiseConfig(schedule="scaled_linear", betas=(0.00085, 0.012), prediction="epsilon")
    )
    stable_diffusion: StableDiffusionConfig = field(default_factory=StableDiffusionConfig)
    copy_unet: bool = True
    stem_widths: tuple[int, ...] = (32, 32, 96, 256)
    adapter_blocks: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "stem_widths", least=1)
        check_range(self, "adapter_blocks", least=0)
        if not self.stem_widths:
            raise ConfigError("stem_widths is empty; give at least one width, for instance [32, 32, 96, 256]")


# Continuous and foreign tokenizers get their lines here.
TOKENIZERS = Registry(
    "tokenizer",
    {
        "vqvae": "fourm.tokenizers.configs:VQVAEConfig",
        "divae": "fourm.tokenizers.configs:DiVAEConfig",
        "vqcontrolnet": "fourm.tokenizers.configs:VQControlNetConfig",
    },
)
