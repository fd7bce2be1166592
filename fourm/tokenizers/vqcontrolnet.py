"""A tokenizer whose codes steer a frozen Stable Diffusion (4M-21's second decoder; ControlNet, Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.rng import key_hash, normal
from fourm.tokenizers.configs import VQControlNetConfig
from fourm.tokenizers.divae import DiffusionAutoencoder
from fourm.tokenizers.stable_diffusion import StableDiffusion, make_controlnet
from fourm.tokenizers.vit import ConvNextBlock

_LATENT = key_hash("vqcontrolnet", "latent") & 0x7FFF_FFFF_FFFF_FFFF


class VQControlNet(DiffusionAutoencoder):
    """Encoder, quantizer, and a ControlNet that reads the codes; Stable Diffusion paints.

    Noise is added to latents, and images are made of latents. Stable Diffusion is referred to, not saved: the weights
    are those of encoder, codebook and ControlNet, and tokens can be made without it.

    Args:
        modality: the raw modality, colour images in [-1, 1].
        config: networks, codebook, and the frozen model.

    Raises:
        ConfigError: if the modality is anything else.
        CheckpointError: if the frozen model cannot be read; not on the meta device, where it waits for its first use.
    """

    kind = "vqcontrolnet"
    config_class = VQControlNetConfig
    config: VQControlNetConfig
    decoder: SteeredUNet

    def __init__(self, modality: Modality, config: VQControlNetConfig) -> None:
        super().__init__(modality, config)
        if self.channels != 3 or modality.normalization != "half":
            raise ConfigError(
                f"modality '{modality.name}' has {self.channels} channels and normalization "
                f"'{modality.normalization}'; Stable Diffusion takes 3 colours with normalization half, such as "
                "rgb_half@224"
            )
        self.decoder = SteeredUNet(config, self.quantizer.dim)
        self.use_sampling()

    def use_sampling(self, **changes: Any) -> Self:
        """Decode with another scheduler or number of steps from now on. Latents have no range, so none is clipped."""
        return super().use_sampling(**{**changes, "clip": False})

    def _shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        frozen = self.config.stable_diffusion
        height, width = self._painted_size(size)
        return (frozen.latent_channels, height // frozen.stride, width // frozen.stride)

    def _to_values(self, image: Tensor, seeds: Tensor) -> Tensor:
        painted = self._painted_size(image.shape[-2:])
        if image.shape[-2:] != painted:
            image = F.interpolate(image, size=painted, mode="bicubic", antialias=True)
        shape = self._shape(painted)
        places = torch.arange(shape[0] * shape[1] * shape[2], device=image.device)
        noise = normal(seeds[:, None], _LATENT, places).view(len(image), *shape)
        return self.decoder.frozen.encode(image, noise)

    def _to_image(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        image = self.decoder.frozen.decode(values)
        return F.interpolate(image, size=size, mode="bicubic", antialias=True) if image.shape[-2:] != size else image

    def _painted_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Size of the images that Stable Diffusion works on, for images of `size`."""
        frozen = self.config.stable_diffusion
        factor = 1.0 if frozen.image_size is None else frozen.image_size / min(size)
        height, width = (max(round(side * factor / frozen.stride), 1) * frozen.stride for side in size)
        return height, width


class SteeredUNet(nn.Module):
    """A frozen U-Net with a ControlNet that reads a map of codes.

    Args:
        config: of the tokenizer.
        condition_dim: length of a code.
    """

    def __init__(self, config: VQControlNetConfig, condition_dim: int) -> None:
        super().__init__()
        self.config = config.stable_diffusion
        self._frozen: dict[str, StableDiffusion] = {}  # in a dict, so that it counts as no part of this module
        self.controlnet: Any = make_controlnet(self.config)
        self.controlnet.controlnet_cond_embedding = _stem(condition_dim, config.stem_widths, self.config.widths[0])
        self.adapter = nn.Sequential(*[ConvNextBlock(condition_dim) for _ in range(config.adapter_blocks)])
        if not self._weight.is_meta:
            self.frozen  # noqa: B018  a model that cannot be read is found out before anything is trained
            if config.copy_unet:
                self._copy_unet()

    @property
    def frozen(self) -> StableDiffusion:
        """Stable Diffusion, read when it is first needed; where and in what precision the ControlNet is."""
        if not self._frozen:
            with torch.device("meta" if self._weight.is_meta else "cpu"):
                made = StableDiffusion(self.config)
            self._frozen["stable_diffusion"] = made.to(self._weight.device, self._weight.dtype)
        return self._frozen["stable_diffusion"]

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.controlnet.conv_in.weight
        return weight

    def _copy_unet(self) -> None:
        unet = self.frozen.unet
        for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
            getattr(self.controlnet, part).load_state_dict(getattr(unet, part).state_dict())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and convert the frozen model along."""
        super()._apply(fn, recurse)
        for frozen in self._frozen.values():
            frozen._apply(fn)
        return self

    def forward(self, noisy: Tensor, timestep: Tensor, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            noisy: (B, c, H, W) latents.
            timestep: (B,) int64.
            condition: (B, d, h, w) codes.
            keep: (B, h, w) bool, False where a code is hidden; None shows all. Where all are, the U-Net works alone.

        Returns:
            (B, c, H, W).
        """
        if keep is not None:
            condition = condition * keep[:, None].to(condition.dtype)
        placed = F.interpolate(self.adapter(condition), size=noisy.shape[-2:], mode="nearest")
        prompt = self.frozen.empty_prompt.to(noisy.dtype).expand(len(noisy), -1, -1)
        down, middle = self.controlnet(noisy, timestep, prompt, placed, return_dict=False)
        if keep is not None:
            shown = keep.flatten(1).any(1)[:, None, None, None]
            down, middle = [residual * shown for residual in down], middle * shown
        predicted: Tensor = self.frozen.unet(
            noisy,
            timestep,
            prompt,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return predicted


def _stem(dim: int, widths: tuple[int, ...], out: int) -> nn.Sequential:
    """From a map of codes to features of the ControlNet, on the same grid; closed at first."""
    layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 3, padding=1), nn.SiLU()]
    for narrow, wide in pairwise(widths):
        layers += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.SiLU()]
        layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.SiLU()]
    closed = nn.Conv2d(widths[-1], out, 3, padding=1)
    nn.init.zeros_(closed.weight)
    assert closed.bias is not None
    nn.init.zeros_(closed.bias)
    return nn.Sequential(*layers, closed)
