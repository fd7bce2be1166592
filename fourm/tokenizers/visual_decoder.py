"""Image decoders that attend to vectors (Emu, Emu2, Sun et al. 2023), trained as autoencoders or on given vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.rng import normal, uniform
from fourm.tokenizers import saved
from fourm.tokenizers.autoencoder import num_channels
from fourm.tokenizers.conditions import Conditions, Vectors
from fourm.tokenizers.cross_unet import CrossUNet
from fourm.tokenizers.diffusers_parts import LatentSpace
from fourm.tokenizers.painting import Painting, as_seeds, stream
from fourm.tokenizers.units import to_natural
from fourm.tokenizers.visual_decoder_configs import VisualDecoderConfig

_ENCODING = "conditions.encoders."
"""Begins the names of all weights that decide the vectors."""


class Painted(NamedTuple):
    """What one training pass gives.

    Args:
        output: (B, C, H, W) the denoiser's prediction.
        target: what `output` should be.
        commitment: nothing; there are no codes.
    """

    output: Tensor
    target: Tensor
    commitment: None = None


class VisualDecoder(Painting):
    """A U-Net that paints what vectors say, in pixels or in the latents of a frozen autoencoder.

    Args:
        modality: the raw modality, colour images in any normalization; what is painted lies in [-1, 1].
        config: conditions, U-Net and noise process.

    Raises:
        ConfigError: if the modality is no image of colours, or its size does not go with encoder or U-Net.
        CheckpointError: if weights to start from cannot be read.
    """

    kind = "visual_decoder"
    config_class = VisualDecoderConfig
    config: VisualDecoderConfig
    decoder: CrossUNet

    def __init__(self, modality: Modality, config: VisualDecoderConfig) -> None:
        super().__init__(modality, config)
        self.channels = num_channels(modality)
        _check_image(modality, config)
        self.conditions = Conditions(modality, config.conditions, frozen=config.freeze_encoder)
        sizes = self.conditions.sizes
        self.space = None if config.latents is None else LatentSpace(config.latents)
        self.decoder = CrossUNet(
            config.unet,
            self.channels if config.latents is None else config.latents.channels,
            {name: sizes[name][1] for name, c in config.conditions.items() if c.attends == "joint"},
            {name: sizes[name] for name, c in config.conditions.items() if c.attends == "apart"},
        )
        self.decoder.size_factor = 1 if config.latents is None else config.latents.stride
        self.set_up_diffusion(config.noise, config.sampling)
        if config.latents is not None:
            self.use_sampling()

    @property
    def num_tokens(self) -> int:
        """Vectors of an image."""
        return sum(count for count, _ in self.conditions.sizes.values())

    @property
    def reads(self) -> dict[str, tuple[int, int]]:
        """Condition -> (number of vectors, their length), of what is painted."""
        return self.conditions.sizes

    @property
    def given(self) -> tuple[Modality, ...]:
        return self.conditions.given

    @property
    def hash(self) -> str:
        """sha256 of all that decides the vectors that encoders make, and of the sizes of those made elsewhere."""
        state = {name: value for name, value in self.state_dict().items() if name.startswith(_ENCODING)}
        facts = {"modality": saved.modality_facts(self.modality), "conditions": self.conditions.facts()}
        return saved.digest(facts, state)

    def forward(self, image: Tensor, seeds: Tensor | None = None, given: Mapping[str, Tensor] | None = None) -> Painted:
        """Add noise to images, and predict it from their vectors.

        Args:
            image: (B, C, H, W) normalised values.
            seeds: (B,) int64, of each sample's noise, timestep and dropped condition. None: 0, 1, 2, ...
            given: condition -> (B, N, d), of those without an encoder.
        """
        seeds = as_seeds(seeds, image)
        rows = self.conditions.rows(image, given)
        clean = self._to_values(image.float(), seeds)
        noised = self._noised(clean, seeds, self.config.noise_offset)
        dropped = {name: c.dropout for name, c in self.config.conditions.items() if c.dropout}
        if self.config.condition_dropout or dropped:
            null = self.conditions.nulls(image.device)
            shown = {name: self._shown(seeds) for name in rows}
            for name, share in dropped.items():
                shown[name] = shown[name] & (uniform(seeds, stream(f"drop {name}")) >= share)
            rows = {name: torch.where(shown[name][:, None, None], value, null[name]) for name, value in rows.items()}
        return Painted(self.decoder(noised.values, noised.timestep, self.conditions.heard(rows)), noised.target)

    @torch.no_grad()
    def encode(self, image: Tensor, given: Mapping[str, Tensor] | None = None) -> Vectors:
        """The vectors of images (B, C, H, W): (B, N, d), or by name where there are several conditions.

        Raises:
            DataError: if a condition without an encoder is not given.
        """
        rows = self.conditions.rows(image, given)
        return next(iter(rows.values())) if len(rows) == 1 else rows

    @torch.no_grad()
    def decode(
        self,
        vectors: Vectors,
        *,
        seeds: Tensor | None = None,
        raw: bool = False,
        null: Vectors | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Paint.

        Args:
            vectors: (B, N, d), or by name where there are several conditions.
            seeds: (B,) int64, of the noise that each image begins as; None: 0, 1, 2, ...
            raw: return painted values in [-1, 1], not natural units.
            null: (N, d) or (B, N, d), what stands for no condition in guidance; None: as the config says.
            size: (height, width) of the images; None: the modality's.

        Returns:
            (B, C, H, W).

        Raises:
            DataError: if vectors have another number or length.
            ConfigError: if the U-Net cannot paint images of this size.
        """
        rows = self.conditions.checked(vectors)
        like = next(iter(rows.values()))
        size = size or self.modality.map_size()
        _check_size(size, self.config.stride)
        blind = self.conditions.nulls(like.device) if null is None else self.conditions.checked(null)
        both = {name: torch.cat([value, blind[name].expand_as(value)]) for name, value in rows.items()}
        values = self._paint(
            lambda noisy, timestep: self._predict(noisy, timestep, rows),
            lambda noisy, timestep: self._predict(noisy, timestep, both),
            as_seeds(seeds, like),
            size,
        ).float()
        return values if raw else ((values + 1) / 2).clamp(0, 1)

    def use_sampling(self, **changes: Any) -> Self:
        """Decode with other settings; see `TokenizerModule.use_sampling`. Latents have no range, so none is clipped."""
        return super().use_sampling(**({**changes, "clip": False} if self.space is not None else changes))

    def adopt(self, source: VisualDecoder) -> None:
        """Go on from another one, U-Net included.

        Raises:
            CheckpointError: if it is of another kind, or has other networks.
        """
        self.take(source, "")

    def adopt_encoder(self, source: VisualDecoder) -> None:
        """Take the encoders of another one.

        Raises:
            CheckpointError: if it has others.
        """
        self.take(source, _ENCODING)

    def _predict(self, noisy: Tensor, timestep: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        noisy = self._as_decoder(noisy)
        heard = self.conditions.heard(rows)
        return self.decoder(noisy, timestep, {name: value.to(noisy.dtype) for name, value in heard.items()}).float()

    def _shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        latents = self.config.latents
        if latents is None:
            return (self.channels, *size)
        return (latents.channels, size[0] // latents.stride, size[1] // latents.stride)

    def _to_values(self, image: Tensor, seeds: Tensor) -> Tensor:
        if self.modality.normalization != "half":
            image = to_natural(image, self.modality) * 2 - 1
        if self.space is None:
            return image
        shape = self._shape((image.shape[-2], image.shape[-1]))
        places = torch.arange(shape[0] * shape[1] * shape[2], device=image.device)
        with torch.no_grad():
            noise = normal(seeds[:, None], stream("latent"), places).view(len(image), *shape)
            return self.space.encode(image, noise)

    def _to_image(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        return values if self.space is None else self.space.decode(values)


def _check_image(modality: Modality, config: VisualDecoderConfig) -> None:
    if modality.is_discrete or modality.teacher is not None or modality.value_range != (0.0, 1.0):
        raise ConfigError(
            f"modality '{modality.name}' holds no colours in [0, 1], which a visual decoder paints; expected for "
            "instance rgb_half@224"
        )
    if config.latents is not None and modality.channels != 3:
        raise ConfigError(
            f"modality '{modality.name}' has {modality.channels} channels, but the autoencoder of tokenizer.latents "
            "takes 3 colours: leave latents out to paint pixels"
        )
    _check_size(modality.map_size(), config.stride)


def _check_size(size: tuple[int, int], stride: int) -> None:
    if size[0] % stride or size[1] % stride:
        raise ConfigError(
            f"images of {size[0]} x {size[1]} pixels do not divide by the U-Net's {stride} (patch_size or the latents' "
            "stride, x 2 per level after the first): use another size or fewer levels"
        )
