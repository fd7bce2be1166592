"""The frozen Stable Diffusion behind a tokenizer, free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from fourm.errors import ConfigError
from fourm.ranges import check_range, check_widths
from fourm.tokenizers.visual_decoder_configs import CrossUNetConfig


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
        check_widths(self.widths, self.groups)
        check_widths(self.vae_widths, self.groups)
        if self.image_size is not None and self.image_size % self.stride:
            raise ConfigError(
                f"image_size is {self.image_size}; expected a multiple of {self.stride}, for instance 512"
            )

    @property
    def stride(self) -> int:
        """Pixels per side of one latent."""
        return int(2 ** (len(self.vae_widths) - 1))

    @property
    def unet(self) -> CrossUNetConfig:
        """Sizes of the U-Net; its last level does not attend."""
        levels = len(self.widths)
        return CrossUNetConfig(
            widths=self.widths,
            num_blocks=self.num_blocks,
            attention_depth=(1,) * (levels - 1) + (0,),
            num_heads=(self.num_heads,) * levels,
            groups=self.groups,
        )
