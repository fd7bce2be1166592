"""What a recipe says about tokenizers, free of torch. One line in a table below and one file add a new kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from fourm.config import slot
from fourm.errors import ConfigError
from fourm.nn.configs import Activation, NoiseConfig, SamplingConfig
from fourm.registry import Registry

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
        seed: of those draws.
    """

    target: ClassVar[str] = "fourm.tokenizers.quantize:EmaQuantizer"

    codebook_size: int = 512
    dim: int = 16
    cosine: bool = True
    normalize_latents: bool = True
    decay: float = 0.99
    revive_below: float = 1 / 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.dim < 1:
            raise ConfigError(f"codebook_size {self.codebook_size} must be 2 or more and dim {self.dim} 1 or more")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay is {self.decay}; expected a number from 0 to below 1, for instance 0.99")
        if not 0 <= self.revive_below < 1:
            raise ConfigError(
                f"revive_below is {self.revive_below}; expected a share from 0 to below 1, for instance 0.03"
            )


# Finite scalar quantization and memory codes get their lines here.
QUANTIZERS = Registry("quantizer", {"ema": "fourm.tokenizers.configs:EmaConfig"})
ENCODERS = Registry(
    "encoder", {"conv": "fourm.tokenizers.configs:ConvConfig", "vit": "fourm.tokenizers.configs:ViTConfig"}
)
DECODERS = Registry(
    "decoder", {"conv": "fourm.tokenizers.configs:ConvConfig", "vit": "fourm.tokenizers.configs:ViTConfig"}
)


DENOISERS = Registry("denoiser", {"unet": "fourm.nn.configs:UNetConfig"})


@dataclass(frozen=True)
class AutoencoderConfig:
    """The encoding half, which all image tokenizers share.

    Args:
        encoder: network.
        quantizer: what its latents become.
        class_dim: length of the embedding of one class, for label maps.
        freeze_encoder: keep encoder and codebook as they are and train only the decoder; see `init_from`.
    """

    encoder: Any = slot(ENCODERS, default="conv")
    quantizer: Any = slot(QUANTIZERS, default="ema")
    class_dim: int = 16
    freeze_encoder: bool = False

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return int(self.encoder.patch_size)


@dataclass(frozen=True)
class VQVAEConfig(AutoencoderConfig):
    """A vector-quantized autoencoder with a direct decoder.

    Args:
        encoder, quantizer, class_dim, freeze_encoder: see `AutoencoderConfig`.
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
class DiVAEConfig(AutoencoderConfig):
    """A tokenizer with a diffusion decoder.

    Args:
        encoder, quantizer, class_dim, freeze_encoder: see `AutoencoderConfig`.
        denoiser: network conditioned on the codes.
        noise: the noise process.
        sampling: how images are decoded.
        condition_dropout: share of the training images whose codes are all hidden, which guidance needs.
        masked_condition: smallest and largest share of hidden codes of the other images; null hides none.
    """

    target: ClassVar[str] = "fourm.tokenizers.divae:DiVAE"

    denoiser: Any = slot(DENOISERS, default="unet")
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    condition_dropout: float = 0.0
    masked_condition: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout < 1:
            raise ConfigError(f"condition_dropout is {self.condition_dropout}; expected a share from 0 to below 1")
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
        if sampling.guidance != 1.0 and not self.condition_dropout and self.masked_condition is None:
            raise ConfigError(
                f"sampling.guidance is {sampling.guidance}, but the denoiser has never been without its codes: train "
                "it with condition_dropout, for instance 0.1"
            )
        if self.noise.zero_terminal_snr and sampling.spacing != "trailing":
            raise ConfigError(
                f"sampling.spacing is {sampling.spacing}, but with zero_terminal_snr sampling has to begin at the last "
                "timestep (Lin et al. 2023): use trailing"
            )


# Continuous and foreign tokenizers get their lines here.
TOKENIZERS = Registry(
    "tokenizer",
    {"vqvae": "fourm.tokenizers.configs:VQVAEConfig", "divae": "fourm.tokenizers.configs:DiVAEConfig"},
)
