"""Rows of vectors that an image decoder attends to: made of the image, or elsewhere; and what stands for none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.config import to_dict
from fourm.errors import CheckpointError, DataError
from fourm.layouts import Continuous, Sequence
from fourm.modality import Modality
from fourm.nn.init import initialise
from fourm.nn.position import sincos_2d
from fourm.nn.towers import ImageFacts
from fourm.nn.vision import VisionEncoder
from fourm.nn.vision_configs import VisionConfig
from fourm.tokenizers.autoencoder import network, num_channels, token_grid
from fourm.tokenizers.visual_decoder_configs import ConditionConfig

Vectors = Tensor | Mapping[str, Tensor]
"""(B, N, d) of the only condition, or by name."""


class MapEncoder(nn.Module):
    """A network that makes a map of vectors, read row by row, each with a learned position: attention knows none.

    Args:
        modality: the images.
        config: of the network.
    """

    def __init__(self, modality: Modality, config: Any) -> None:
        super().__init__()
        grid = token_grid(modality, config.patch_size)
        self.network = network(config, "Encoder", num_channels(modality), grid)
        self.num_tokens, self.dim = grid.num_tokens, int(self.network.out_dim)
        places = sincos_2d(grid.height, grid.width, -(-self.dim // 4) * 4)[:, : self.dim]
        self.position = nn.Parameter(places.contiguous())

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, d)."""
        rows: Tensor = self.network(image).flatten(2).transpose(1, 2)
        return rows + self.position


class Conditions(nn.Module):
    """Encoders of an image, and the vectors that stand for no condition.

    Args:
        modality: the images.
        configs: name -> condition.
        frozen: encoders stay as they are.

    Attributes:
        sizes: name -> (number of vectors, their length).

    Raises:
        ConfigError: if an encoder does not go with the image's size.
        CheckpointError: if the vectors for no condition cannot be read, or are of another size.
    """

    def __init__(self, modality: Modality, configs: Mapping[str, ConditionConfig], *, frozen: bool) -> None:
        super().__init__()
        self.configs, self.frozen = dict(configs), frozen
        self.image_shape = (num_channels(modality), *modality.map_size())
        self.encoders = nn.ModuleDict(
            {name: _encoder(modality, c) for name, c in configs.items() if c.encoder is not None}
        )
        self.sizes = {name: self._size(name, c) for name, c in configs.items()}
        for name, condition in configs.items():
            if condition.empty == "file":
                self.register_buffer(f"null_{name}", _read_null(condition, self.sizes[name]))
        if frozen:
            self.encoders.requires_grad_(False)

    @property
    def given(self) -> tuple[Modality, ...]:
        """Those that are made elsewhere, as data has them."""
        facts = {n: (*self.sizes[n], c.source or n) for n, c in self.configs.items() if c.encoder is None}
        return tuple(
            Modality(
                name, Sequence(count, max(count, 512)), Continuous(dim), source, "vectors", direction="input"
            )
            for name, (count, dim, source) in facts.items()
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """All of the configs that decides the vectors, as JSON."""
        encoders = {name: to_dict(c)["encoder"] for name, c in self.configs.items() if c.encoder is not None}
        read_at = {name: {"read_at": c.size} for name, c in self.configs.items() if c.size is not None}
        return {
            name: {"size": list(size), "encoder": encoders.get(name), **read_at.get(name, {})}
            for name, size in self.sizes.items()
        }

    def train(self, mode: bool = True) -> Conditions:
        """Training mode; frozen encoders stay as they are."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def rows(self, image: Tensor, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """name -> (B, N, d) of images (B, C, H, W), and of what is given beside them.

        Raises:
            DataError: if one is missing or has another shape.
        """
        known = dict(given or {})
        missing = [name for name in self.sizes if name not in self.encoders and name not in known]
        if missing:
            raise DataError(
                f"the vectors of condition '{missing[0]}' are made elsewhere: give them beside the images, of shape "
                f"(batch, {', '.join(map(str, self.sizes[missing[0]]))})"
            )
        made = {name: self._encode(name, image) for name in self.encoders}
        return self.checked({name: made[name] if name in made else known[name] for name in self.sizes})

    def checked(self, vectors: Vectors) -> dict[str, Tensor]:
        """name -> (B, N, d), in the order of the config.

        Raises:
            DataError: if one is missing, or has another shape.
        """
        if isinstance(vectors, Tensor):
            vectors = {next(iter(self.sizes)): vectors}
        if vectors.keys() != self.sizes.keys():
            raise DataError(f"vectors of {', '.join(vectors)}; this decoder needs those of {', '.join(self.sizes)}")
        for name, size in self.sizes.items():
            if tuple(vectors[name].shape[-2:]) != size:
                raise DataError(
                    f"condition '{name}' has vectors of shape {tuple(vectors[name].shape)}; expected (batch, "
                    f"{size[0]}, {size[1]}): {size[0]} vectors of {size[1]} numbers for each image"
                )
        return {name: vectors[name] for name in self.sizes}

    def nulls(self, device: torch.device) -> dict[str, Tensor]:
        """name -> (1, N, d), what stands for none."""
        found: dict[str, Tensor] = {}
        for name, condition in self.configs.items():
            if condition.empty == "black":
                found[name] = self._encode(name, torch.zeros(1, *self.image_shape, device=device))
            elif condition.empty == "file":
                found[name] = self.get_buffer(f"null_{name}")[None]
            else:
                found[name] = torch.zeros(1, *self.sizes[name], device=device)
        return found

    def heard(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """name -> (B, N, d), what the U-Net attends to: the vectors, or what they add to none."""
        gains = {name: c.gain for name, c in self.configs.items() if c.gain is not None}
        if not gains:
            return dict(vectors)
        null = self.nulls(next(iter(vectors.values())).device)
        return {n: (v - null[n]) * gains[n] if n in gains else v for n, v in vectors.items()}

    def _encode(self, name: str, image: Tensor) -> Tensor:
        size = self.configs[name].size
        if size is not None and image.shape[-2:] != (size, size):
            image = F.interpolate(image, (size, size), mode="bicubic", antialias=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            rows: Tensor = self.encoders[name](image)
        return rows

    def _size(self, name: str, condition: ConditionConfig) -> tuple[int, int]:
        if condition.num_tokens is not None and condition.dim is not None:
            return condition.num_tokens, condition.dim
        encoder: Any = self.encoders[name]
        return encoder.num_tokens, encoder.dim


def _encoder(modality: Modality, condition: ConditionConfig) -> nn.Module:
    if not isinstance(condition.encoder, VisionConfig):
        return MapEncoder(modality, condition.encoder)
    height, width = modality.map_size() if condition.size is None else (condition.size, condition.size)
    image = ImageFacts(modality.name, height, width, num_channels(modality), modality.normalization)
    count, dim = condition.num_tokens or 0, condition.dim or 0  # which the config sees to
    encoder = VisionEncoder(image, count, dim, condition.encoder)
    if torch.get_default_device().type != "meta":
        initialise(encoder, int(torch.randint(1 << 31, ())))
    return encoder


def _read_null(condition: ConditionConfig, size: tuple[int, int]) -> Tensor:
    """The vectors of `empty_file`; zeros on the meta device, as a saved tokenizer holds them itself."""
    if torch.get_default_device().type == "meta":
        return torch.zeros(size)
    from safetensors.torch import load_file

    try:
        vectors = load_file(str(condition.empty_file))["vectors"].float()
    except Exception as error:
        raise CheckpointError(
            f"empty_file {condition.empty_file} cannot be read: {error}. Expected safetensors with a tensor 'vectors'"
        ) from None
    if tuple(vectors.shape) != size:
        raise CheckpointError(
            f"empty_file {condition.empty_file} has vectors of {tuple(vectors.shape)}; expected {size}"
        )
    return vectors
