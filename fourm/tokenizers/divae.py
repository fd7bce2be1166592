"""Tokenizers that decode by diffusion, conditioned on their codes (4M, Mizrahi et al. 2023, sec. A.2)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from fourm.config import build, to_dict
from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.nn.configs import SamplingConfig
from fourm.nn.diffusion import Diffusion, starting_noise
from fourm.registry import implementation
from fourm.rng import key_hash, normal, uniform
from fourm.tokenizers.autoencoder import Autoencoder, Reconstruction
from fourm.tokenizers.configs import DiffusionConfig, DiVAEConfig


def _stream(purpose: str) -> int:
    return key_hash("divae", purpose) & 0x7FFF_FFFF_FFFF_FFFF


_NOISE, _TIME, _DROP, _SHARE, _MASK = map(_stream, ("noise", "time", "drop", "share", "mask"))


class DiffusionAutoencoder(Autoencoder):
    """Encoder, quantizer, and a denoiser that paints from codes; in pixels, unless a family has a space of its own.

    Everything it draws belongs to the sample: the same seed gives the same image in any batch. Families set `decoder`,
    a module `(noisy, timestep, condition, keep) -> prediction`.

    Args:
        modality: the raw modality, an image.
        config: networks, codebook and noise process.

    Raises:
        ConfigError: for label maps and masks.
    """

    config: DiffusionConfig
    decoder: nn.Module

    def __init__(self, modality: Modality, config: DiffusionConfig) -> None:
        super().__init__(modality, config)
        if self.is_labels:
            raise ConfigError(
                f"modality '{modality.name}' is a label map, to which no noise can be added: use tokenizer.kind: vqvae"
            )
        if modality.normalization == "mask":
            raise ConfigError(
                f"modality '{modality.name}' is a mask, whose decoder answers logits: use tokenizer.kind: vqvae"
            )
        self.diffusion = Diffusion(config.noise)
        self.sampling = config.sampling

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        """Encode and quantize images, add noise to them, and predict it from the codes.

        Args:
            image: (B, C, H, W) normalised values.
            seeds: (B,) int64; each sample's noise, timestep and hidden codes. None: 0, 1, 2, ...
        """
        seeds = _seeds(seeds, image)
        quantized = self._quantize(image, seeds)
        clean = self._to_values(image.float(), seeds)
        noise = normal(seeds[:, None], _NOISE, torch.arange(clean[0].numel(), device=clean.device)).view_as(clean)
        timestep = (uniform(seeds, _TIME) * self.config.noise.num_timesteps).long()
        noisy = self.diffusion.add_noise(clean, noise, timestep)
        keep = self._kept(seeds, quantized.vectors[..., 0])
        output = self.decoder(noisy, timestep, quantized.vectors.permute(0, 3, 1, 2), keep)
        target = self.diffusion.target(clean, noise, timestep)
        return Reconstruction(output, quantized.commitment, quantized.ids, target)

    @torch.no_grad()
    def denoise(self, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """One call of the denoiser.

        Args:
            noisy: (B, C, H, W) pixels, or latents of a family that paints those.
            timestep: (B,) int64, or one number.
            ids: (B, h, w) token ids.

        Returns:
            (B, C, H, W) noise, image or v, as `config.noise.prediction` says.
        """
        timestep = torch.as_tensor(timestep, device=noisy.device).expand(len(noisy))
        return self._predict(noisy, timestep, self.quantizer.lookup(ids).permute(0, 3, 1, 2))

    def use_sampling(self, **changes: Any) -> Self:
        """Decode with another scheduler, number of steps or guidance from now on; see `Autoencoder.use_sampling`."""
        sampling = build(SamplingConfig, {**to_dict(self.sampling), **changes}, key="sampling")
        self.config.check_sampling(sampling)
        self.sampling = sampling
        return self

    def _generate(self, vectors: Tensor, seeds: Tensor | None) -> Tensor:
        batch, height, width, _ = vectors.shape
        patch = self.latent_grid.patch_size
        size = (height * patch, width * patch)
        noise = starting_noise(_seeds(seeds, vectors), _NOISE, self._shape(size))
        condition, guidance = vectors.permute(0, 3, 1, 2), self.sampling.guidance
        shown = torch.arange(2 * batch, device=vectors.device) < batch
        keep, twice = shown[:, None, None].expand(-1, height, width), condition.repeat(2, 1, 1, 1)

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            if guidance == 1.0:
                return self._predict(noisy, timestep, condition)
            both = self._predict(noisy.repeat(2, 1, 1, 1), timestep.repeat(2), twice, keep)
            with_codes, without = both.chunk(2)
            return without + guidance * (with_codes - without)

        return self._to_image(self.diffusion.sample(predict, noise, self.sampling), size)

    def _shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of what is painted for an image of `size`."""
        return (self.channels, *size)

    def _to_values(self, image: Tensor, seeds: Tensor) -> Tensor:
        """(B, C, H, W) images -> what is painted for them."""
        return image

    def _to_image(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """What is painted -> (B, C, *size) images."""
        return values

    def _predict(self, noisy: Tensor, timestep: Tensor, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """The denoiser in its own precision and memory layout, float32 outside."""
        weight = self._decoder_weight
        layout = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else None
        noisy = noisy.to(weight.dtype, memory_format=layout or torch.preserve_format)
        return self.decoder(noisy, timestep, condition.to(weight.dtype), keep).float()

    def _kept(self, seeds: Tensor, places: Tensor) -> Tensor | None:
        """(B, h, w) like `places`, which ones the denoiser sees: none of a dropped sample, a share of the others."""
        config = self.config
        if not config.condition_dropout and config.masked_condition is None:
            return None
        keep = (uniform(seeds, _DROP) >= config.condition_dropout)[:, None, None].expand_as(places)
        if config.masked_condition is not None:
            low, high = config.masked_condition
            hidden = (low + (high - low) * uniform(seeds, _SHARE))[:, None]
            number = torch.arange(places[0].numel(), device=places.device)
            keep = keep & (uniform(seeds[:, None], _MASK, number) >= hidden).view_as(places)
        return keep


class DiVAE(DiffusionAutoencoder):
    """A denoiser of pixels, trained together with encoder and codebook or after them.

    Args:
        modality: the raw modality, an image.
        config: networks, codebook and noise process.

    Raises:
        ConfigError: for label maps, and for sizes that the denoiser cannot take.
    """

    kind = "divae"
    config_class = DiVAEConfig

    def __init__(self, modality: Modality, config: DiVAEConfig) -> None:
        super().__init__(modality, config)
        stride, size = config.denoiser.stride, modality.map_size()
        if size[0] % stride or size[1] % stride:
            raise ConfigError(
                f"modality '{modality.name}' has {size[0]} x {size[1]} pixels, which do not divide by the denoiser's "
                f"{stride} (patch_size x 2 per level after the first): use fewer levels or a smaller "
                "tokenizer.denoiser.patch_size"
            )
        self.decoder = implementation(config.denoiser.target)(config.denoiser, self.channels, self.quantizer.dim)


def _seeds(seeds: Tensor | None, like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device) if seeds is None else seeds
