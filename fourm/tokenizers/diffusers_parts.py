"""Networks of diffusers, at random or from a folder in its layout: U-Nets, and autoencoders of their latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError
from fourm.rng import torch_seed
from fourm.tokenizers.visual_decoder_configs import CrossUNetConfig, LatentsConfig


def read_part(kind: Any, part: str, source: str, revision: str | None, key: str) -> Any:
    """One network of a folder in diffusers' layout, or of a repository on the Hub.

    Args:
        kind: its class.
        part: its sub-folder.
        source, revision: where.
        key: of the recipe that names the source.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return kind.from_pretrained(source, subfolder=part, revision=revision, use_safetensors=True).float()
    except Exception as error:  # these libraries raise many kinds, for damaged files and for no network alike
        raise CheckpointError(
            f"{part}/ cannot be read from '{source}': {str(error).strip().splitlines()[0]}. Expected a folder in "
            f"diffusers' layout, or a repository on the Hub, with safetensors in {part}/. Where there is no network, "
            f"download it elsewhere and set {key} to the folder"
        ) from None


def make_vae(widths: tuple[int, ...], num_blocks: int, channels: int, groups: int) -> Any:
    """An autoencoder at random, `AutoencoderKL`."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=num_blocks,
        latent_channels=channels,
        norm_num_groups=groups,
    )


def to_latents(vae: Any, image: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Latents (B, c, H / stride, W / stride) of images (B, 3, H, W) in [-1, 1], drawn with standard `noise`."""
    found = vae.encode(image.to(vae.dtype)).latent_dist
    return (found.mean.float() + found.std.float() * noise) * scale


def from_latents(vae: Any, latents: Tensor, scale: float) -> Tensor:
    """Images (B, 3, H, W) of latents."""
    decoded: Tensor = vae.decode((latents / scale).to(vae.dtype), return_dict=False)[0]
    return decoded.float()


class Latents(nn.Module):
    """A frozen autoencoder.

    Args:
        config: its sizes, and where its weights are.

    Raises:
        CheckpointError: if they cannot be read or have other sizes.
    """

    def __init__(self, config: LatentsConfig) -> None:
        super().__init__()
        self.config = c = config
        if c.source is None or torch.get_default_device().type == "meta":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch_seed(c.seed, "latents"))
                self.vae = make_vae(c.widths, c.num_blocks, c.channels, c.groups)
        else:
            from diffusers import AutoencoderKL

            self.vae = read_part(AutoencoderKL, "vae", c.source, c.revision, "tokenizer.latents.source")
            found = self.vae.config
            sizes = {"widths": tuple(found.block_out_channels), "channels": found.latent_channels}
            check_sizes(c.source, "tokenizer.latents", sizes, c)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Latents:
        """Stays in evaluation mode."""
        return super().train(False)


def make_unet(c: CrossUNetConfig, channels: int, cross_dim: int, pooled_dim: int | None = None) -> Any:
    """A U-Net at random, `UNet2DConditionModel`.

    Args:
        c: sizes.
        channels: of what it paints.
        cross_dim: of the vectors that it attends to.
        pooled_dim: of a vector that it is told beside size and crop, as SDXL is; None: none.
    """
    from diffusers import UNet2DConditionModel

    pooled = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_DIM,
        "projection_class_embeddings_input_dim": (pooled_dim or 0) + 6 * SIZE_DIM,
    }
    up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(c.attention_depth))
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        cross_attention_dim=cross_dim,
        up_block_types=up,
        **unet_sizes(c),
        **({} if pooled_dim is None else pooled),
    )


SIZE_DIM = 256
"""Numbers that each side and each border of a crop becomes."""


def unet_sizes(c: CrossUNetConfig) -> dict[str, Any]:
    """The arguments that a U-Net and its ControlNet share, without the condition's."""
    return {
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in c.attention_depth),
        "block_out_channels": c.widths,
        "layers_per_block": c.num_blocks,
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in c.attention_depth),
        "attention_head_dim": c.num_heads[0]
        if len({*c.num_heads}) == 1
        else c.num_heads,  # by diffusers' own account a misnomer
        "use_linear_projection": c.linear_projection,
        "norm_num_groups": c.groups,
    }


def check_sizes(source: str, key: str, found: dict[str, Any], config: Any) -> None:
    """See that a network has the sizes that a recipe says.

    Raises:
        CheckpointError: naming those that differ.
    """
    wrong = [
        f"{name} {value} (recipe: {getattr(config, name)})"
        for name, value in found.items()
        if value != getattr(config, name)
    ]
    if wrong:
        raise CheckpointError(
            f"the model in '{source}' has other sizes than {key} says: {', '.join(wrong)}. Set them to those of the "
            "model"
        )


class LatentSpace(nn.Module):
    """Latents of a frozen autoencoder that is referred to: it moves along, but is neither trained nor saved.

    Args:
        config: of the autoencoder, which is read at once, or on the meta device when it is first needed.
    """

    def __init__(self, config: LatentsConfig) -> None:
        super().__init__()
        self.config = config
        self._frozen: dict[str, Latents] = {}  # in a dict, so that it counts as no part of this module
        if torch.get_default_device().type != "meta":  # what cannot be read is found out before anything is trained
            self._frozen["latents"] = Latents(config)

    def encode(self, image: Tensor, noise: Tensor) -> Tensor:
        """See `to_latents`."""
        return to_latents(self._vae(image), image, noise, self.config.scale)

    def decode(self, latents: Tensor) -> Tensor:
        """See `from_latents`."""
        return from_latents(self._vae(latents), latents, self.config.scale)

    def _vae(self, like: Tensor) -> Any:
        if not self._frozen:
            with torch.device("meta" if like.is_meta else "cpu"):
                made = Latents(self.config)
            self._frozen["latents"] = made.to(like.device)
        return self._frozen["latents"].vae

    def _apply(self, fn: Any, recurse: bool = True) -> LatentSpace:
        super()._apply(fn, recurse)
        for frozen in self._frozen.values():
            frozen._apply(fn)
        return self
