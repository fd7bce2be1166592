"""Decoding by diffusion, whatever the denoiser is told: how noise is added in training and taken away in sampling."""

from __future__ import annotations

from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from fourm.config import build, to_dict
from fourm.errors import ConfigError
from fourm.layouts import Continuous
from fourm.modality import Modality
from fourm.nn.configs import NoiseConfig, SamplingConfig
from fourm.nn.diffusion import Denoise, Diffusion, starting_noise
from fourm.rng import key_hash, normal, uniform
from fourm.tokenizers.module import TokenizerModule


def stream(purpose: str) -> int:
    """Keeps the draws for one purpose apart from others of the same seed."""
    return key_hash("divae", purpose) & 0x7FFF_FFFF_FFFF_FFFF


_NOISE, _TIME, _DROP = map(stream, ("noise", "time", "drop"))


def check_painter(modality: Modality, decoder: Any, where: str) -> None:
    """Whether a decoder paints the vectors of a modality.

    Args:
        modality: of images with slots.
        decoder: a visual decoder, or a detokenizer.
        where: names it in errors.

    Raises:
        ConfigError: if it paints others, or decodes something else.
    """
    sizes = getattr(decoder, "reads", None)
    if sizes is None:
        raise ConfigError(
            f"{where} paints no vectors, but is of kind {getattr(decoder, 'kind', type(decoder).__name__)}: name a "
            "visual_decoder or a detokenizer"
        )
    own = (modality.num_tokens, cast(Continuous, modality.content).dim)
    if list(sizes.values()) != [own]:
        reads = ", and ".join(f"{count} vectors of {dim} numbers as '{name}'" for name, (count, dim) in sizes.items())
        raise ConfigError(
            f"{where} paints {reads}, but an image of the modality '{modality.name}' is {own[0]} vectors of {own[1]} "
            "numbers alone: name a decoder of these, or correct layout.num_tokens and content.dim"
        )


class Noised(NamedTuple):
    """Values with noise on them.

    Args:
        values: (B, ...) what the denoiser reads.
        timestep: (B,) int64.
        target: (B, ...) what it should say.
    """

    values: Tensor
    timestep: Tensor
    target: Tensor


class Painting(TokenizerModule):
    """A tokenizer that decodes by diffusion, in pixels unless a family has a space of its own.

    Everything it draws belongs to the sample: the same seed gives the same image in any batch. Families set `decoder`,
    the denoiser.
    """

    decoder: nn.Module
    diffusion: Diffusion
    sampling: SamplingConfig

    def set_up_diffusion(self, noise: NoiseConfig, sampling: SamplingConfig) -> None:
        """Fix the noise process, and how images are sampled for now."""
        self.diffusion, self.sampling = Diffusion(noise), sampling

    def use_sampling(self, **changes: Any) -> Self:
        """Decode with another scheduler, number of steps or guidance; see `TokenizerModule.use_sampling`."""
        sampling = build(SamplingConfig, {**to_dict(self.sampling), **changes}, key="sampling")
        self.config.check_sampling(sampling)
        self.sampling = sampling
        return self

    def _noised(self, clean: Tensor, seeds: Tensor, offset: float = 0.0) -> Noised:
        """Noise on clean values (B, C, H, W), at a timestep of each sample's own.

        Args:
            clean: what would be painted.
            seeds: (B,).
            offset: deviation of a part of the noise that is the same in all places of a channel.
        """
        noise = normal(seeds[:, None], _NOISE, torch.arange(clean[0].numel(), device=clean.device)).view_as(clean)
        if offset:
            channels = torch.arange(clean.shape[1], device=clean.device)
            noise = noise + offset * normal(seeds[:, None], stream("offset"), channels)[:, :, None, None]
        timestep = (uniform(seeds, _TIME) * self.config.noise.num_timesteps).long()
        noisy = self.diffusion.add_noise(clean, noise, timestep)
        return Noised(noisy, timestep, self.diffusion.target(clean, noise, timestep))

    def _shown(self, seeds: Tensor) -> Tensor:
        """(B,) which samples are trained with their condition, the others without."""
        return uniform(seeds, _DROP) >= self.config.condition_dropout

    def _paint(self, once: Denoise, twice: Denoise, seeds: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, *size) images from noise.

        Args:
            once: noisy values and timesteps (B,) -> prediction with the condition.
            twice: the same of (2 B), first with the condition and then without, for guidance.
            seeds: (B,) of the noise.
            size: (height, width) of the images.
        """
        guidance = self.sampling.guidance

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            if guidance == 1.0:
                return once(noisy, timestep)
            seeing, blind = twice(noisy.repeat(2, 1, 1, 1), timestep.repeat(2)).chunk(2)
            return blind + guidance * (seeing - blind)

        noise = starting_noise(seeds, _NOISE, self._shape(size))
        return self._to_image(self.diffusion.sample(predict, noise, self.sampling), size)

    def _as_decoder(self, noisy: Tensor) -> Tensor:
        """Values in the precision and memory layout of the denoiser."""
        weight = self._decoder_weight
        layout = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else None
        return noisy.to(weight.dtype, memory_format=layout or torch.preserve_format)

    def _shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of what is painted for an image of `size`."""
        raise NotImplementedError

    def _to_values(self, image: Tensor, seeds: Tensor) -> Tensor:
        """(B, C, H, W) images -> what is painted for them."""
        return image

    def _to_image(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """What is painted -> (B, C, *size) images."""
        return values


def as_seeds(seeds: Tensor | None, like: Tensor) -> Tensor:
    """(B,) seeds: those given, or 0, 1, 2, ..."""
    return torch.arange(len(like), device=like.device) if seeds is None else seeds
