"""What a recipe says about tokenizers, free of torch. One line in a table below and one file add a new kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fourm.config import slot
from fourm.errors import ConfigError
from fourm.nn.configs import NoiseConfig, SamplingConfig, check_sampling
from fourm.ranges import check_range
from fourm.registry import Registry
from fourm.tokenizers.stable_diffusion_configs import StableDiffusionConfig
from fourm.tokenizers.teacher_configs import TEACHER_KINDS

QUANTIZERS = Registry(
    "quantizer",
    {
        "ema": "fourm.tokenizers.quantizer_configs:EmaConfig",
        "fsq": "fourm.tokenizers.quantizer_configs:FSQConfig",
        "memcodes": "fourm.tokenizers.quantizer_configs:MemcodesConfig",
    },
)
_NETWORKS = {
    "conv": "fourm.tokenizers.network_configs:ConvConfig",
    "mlp": "fourm.tokenizers.network_configs:MLPConfig",
    "vit": "fourm.tokenizers.network_configs:ViTConfig",
    "vqgan": "fourm.tokenizers.network_configs:VQGANConfig",
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
            ConfigError: if the scheduler does not go with the noise process, or guidance without what it needs.
        """
        check_sampling(self.noise, sampling)
        learns_without = self.condition_dropout or self.masked_condition is not None or self.knows_no_codes
        if sampling.guidance != 1.0 and not learns_without:
            raise ConfigError(
                f"sampling.guidance is {sampling.guidance}, but the denoiser has never been without its codes: train "
                "it with condition_dropout, for instance 0.1"
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
        "visual_decoder": "fourm.tokenizers.visual_decoder_configs:VisualDecoderConfig",
        "detokenizer": "fourm.tokenizers.detokenizer_configs:DetokenizerConfig",
    },
)
