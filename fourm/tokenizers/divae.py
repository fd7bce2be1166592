"""Tokenizers that decode by diffusion, conditioned on their codes (4M, Mizrahi et al. 2023, sec. A.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.registry import implementation
from fourm.rng import uniform
from fourm.tokenizers.autoencoder import Autoencoder, Reconstruction
from fourm.tokenizers.configs import DiffusionConfig, DiVAEConfig
from fourm.tokenizers.painting import Painting, as_seeds, stream

_SHARE, _MASK = map(stream, ("share", "mask"))


class DiffusionAutoencoder(Painting, Autoencoder):
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
        self.set_up_diffusion(config.noise, config.sampling)

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        """Encode and quantize images, add noise to them, and predict it from the codes.

        Args:
            image: (B, C, H, W) normalised values.
            seeds: (B,) int64; each sample's noise, timestep and hidden codes. None: 0, 1, 2, ...
        """
        seeds = as_seeds(seeds, image)
        quantized = self._quantize(image, seeds)
        clean = self._to_values(image.float(), seeds)
        noised = self._noised(clean, seeds)
        keep = self._kept(seeds, quantized.vectors[..., 0])
        output = self.decoder(noised.values, noised.timestep, quantized.vectors.permute(0, 3, 1, 2), keep)
        return Reconstruction(output, quantized.commitment, quantized.ids, noised.target)

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

    def _generate(self, vectors: Tensor, seeds: Tensor | None) -> Tensor:
        batch, height, width, _ = vectors.shape
        patch = self.latent_grid.patch_size
        size = (height * patch, width * patch)
        condition = vectors.permute(0, 3, 1, 2)
        shown = torch.arange(2 * batch, device=vectors.device) < batch
        keep, both = shown[:, None, None].expand(-1, height, width), condition.repeat(2, 1, 1, 1)
        return self._paint(
            lambda noisy, timestep: self._predict(noisy, timestep, condition),
            lambda noisy, timestep: self._predict(noisy, timestep, both, keep),
            as_seeds(seeds, vectors),
            size,
        )

    def _shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return (self.channels, *size)

    def _predict(self, noisy: Tensor, timestep: Tensor, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """The denoiser in its own precision and memory layout, float32 outside."""
        noisy = self._as_decoder(noisy)
        return self.decoder(noisy, timestep, condition.to(noisy.dtype), keep).float()

    def _kept(self, seeds: Tensor, places: Tensor) -> Tensor | None:
        """(B, h, w) like `places`, which ones the denoiser sees: none of a dropped sample, a share of the others."""
        config = self.config
        if not config.condition_dropout and config.masked_condition is None:
            return None
        keep = self._shown(seeds)[:, None, None].expand_as(places)
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
