"""The frozen parts of Stable Diffusion that a ControlNet steers: U-Net, autoencoder, and the embedded empty prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError, MissingExtraError
from fourm.rng import torch_seed
from fourm.tokenizers.diffusers_parts import from_latents, make_unet, make_vae, to_latents, unet_sizes
from fourm.tokenizers.stable_diffusion_configs import StableDiffusionConfig

LICENCE = "CreativeML OpenRAIL-M"
# What CLIP's tokenizer makes of the empty text: its start, and its end as padding.
_START_OF_TEXT, _END_OF_TEXT = 49406, 49407


class StableDiffusion(nn.Module):
    """Noise prediction in the latent space of an autoencoder, and the way there and back.

    Args:
        config: where the weights come from, and the sizes that they have.

    Raises:
        CheckpointError: if the weights cannot be read or have other sizes.
        MissingExtraError: if `transformers`, which reads the text encoder, is not installed.
    """

    empty_prompt: Tensor

    def __init__(self, config: StableDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.unet: Any
        self.vae: Any
        if config.source is None or torch.get_default_device().type == "meta":
            self._at_random()
        else:
            self._from_source(config.source)
        self.requires_grad_(False).eval()

    @property
    def scale(self) -> float:
        """Of latents: they reach the U-Net with about unit deviation."""
        return float(self.vae.config.scaling_factor)

    def encode(self, image: Tensor, noise: Tensor) -> Tensor:
        """Latents (B, c, H / stride, W / stride) of images (B, 3, H, W) in [-1, 1], drawn with standard `noise`."""
        return to_latents(self.vae, image, noise, self.scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents."""
        return from_latents(self.vae, latents, self.scale)

    def _at_random(self) -> None:
        c, device = self.config, torch.get_default_device()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(c.seed, "stable_diffusion"))
            self.unet = make_unet(c.unet, c.latent_channels, c.text_dim)
            self.vae = make_vae(c.vae_widths, c.vae_blocks, c.latent_channels, c.groups)
            self.register_buffer("empty_prompt", torch.randn(1, c.text_length, c.text_dim, device=device))

    def _from_source(self, source: str) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        try:
            from transformers import CLIPTextModel
        except ImportError:
            raise MissingExtraError("transformers", "labelers", "the text encoder of Stable Diffusion") from None

        def read(kind: Any, part: str) -> Any:
            options = {"subfolder": part, "revision": self.config.revision, "use_safetensors": True}
            return kind.from_pretrained(source, **options).float()

        try:
            self.unet, self.vae = read(UNet2DConditionModel, "unet"), read(AutoencoderKL, "vae")
            text_encoder = read(CLIPTextModel, "text_encoder")
        except Exception as error:  # these libraries raise many kinds, for damaged files and for no network alike
            raise CheckpointError(
                f"Stable Diffusion cannot be read from '{source}': {str(error).strip().splitlines()[0]}. Expected a "
                "repository on the Hub or a folder in diffusers' layout, with safetensors in unet/, vae/ and "
                f"text_encoder/. Where there is no network, download it elsewhere (its licence is {LICENCE}) and set "
                "tokenizer.stable_diffusion.source to the folder"
            ) from None
        _check_sizes(source, self.config, self.unet.config, self.vae.config, text_encoder.config)
        ids = [_START_OF_TEXT] + [_END_OF_TEXT] * (self.config.text_length - 1)
        with torch.no_grad():
            self.register_buffer("empty_prompt", text_encoder(torch.tensor([ids])).last_hidden_state)


def make_controlnet(config: StableDiffusionConfig) -> Any:
    """A ControlNet of the same sizes at random, without what reads its condition."""
    from diffusers import ControlNetModel

    return ControlNetModel(
        in_channels=config.latent_channels,
        conditioning_embedding_out_channels=(config.groups,),  # as small as can be: it is replaced
        cross_attention_dim=config.text_dim,
        **unet_sizes(config.unet),
    )


def _check_sizes(source: str, config: StableDiffusionConfig, unet: Any, vae: Any, text: Any) -> None:
    found = {
        "widths": tuple(unet.block_out_channels),
        "num_blocks": unet.layers_per_block,
        "num_heads": unet.attention_head_dim,
        "groups": unet.norm_num_groups,
        "text_dim": unet.cross_attention_dim,
        "latent_channels": vae.latent_channels,
        "vae_widths": tuple(vae.block_out_channels),
        "vae_blocks": vae.layers_per_block,
    }
    wrong = [f"{name} {value} (recipe: {getattr(config, name)})" for name, value in found.items()
             if value != getattr(config, name)]  # fmt: skip
    if text.hidden_size != config.text_dim or text.max_position_embeddings < config.text_length:
        wrong.append(f"a text encoder of {text.max_position_embeddings} tokens and width {text.hidden_size}")
    if wrong:
        raise CheckpointError(
            f"the model in '{source}' has other sizes than tokenizer.stable_diffusion says: {', '.join(wrong)}. Set "
            "them to those of the model, or use Stable Diffusion 1.5"
        )
