"""Embedders of single modalities at any size, taken out of a trained model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.layouts import Continuous
from fourm.modality import Modality
from fourm.models.ask import patchify
from fourm.models.configs import MultimodalConfig
from fourm.nn.init import fill_normal
from fourm.nn.position import fitted_places, resize_table, sincos_1d, sincos_places
from fourm.nn.trunk import make_norm


class Embedded(NamedTuple):
    """One modality as tokens.

    Args:
        x: (B, n, dim) content, position and modality added up; zero where there is no token.
        size: (rows, columns) of its grid; None for sequences.
        valid: (B, n) bool, False on padding; None: all are tokens.
    """

    x: Tensor
    size: tuple[int, int] | None
    valid: Tensor | None


class Stem(nn.Module):
    """What all embedders share: a vector for the modality, and positions that follow the size of the input.

    Sine-cosine positions are computed at the places that the tokens have on the grid the model was trained with;
    learned ones are interpolated.

    Args:
        modality: whose.
        model: config of the model that it belongs to.

    Attributes:
        counted: sine-cosine positions are counted from 0 at any size instead.
    """

    def __init__(self, modality: Modality, model: MultimodalConfig) -> None:
        super().__init__()
        self.source, self.dim, self.std, self.counted = modality, model.dim, model.embedding_std, False
        self.has_positions, dim = model.position_tables, model.dim
        self.modality = nn.Parameter(torch.empty(dim)) if model.modality_embeddings else None
        learned = modality.positions == "learned" and self.has_positions
        self.positions = nn.Parameter(torch.empty(modality.layout.num_positions, dim)) if learned else None

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw new embeddings."""
        for parameter in self.parameters(recurse=False):
            fill_normal(parameter, generator, self.std)

    @torch.no_grad()
    def take(self, other: Stem) -> None:
        """Take the weights of another embedder of this modality."""
        self.load_state_dict(other.state_dict())

    @torch.no_grad()
    def adopt(self, model: Any) -> None:
        """Take the weights of this modality from a trained model with an `input_embedder`."""
        embedder, name = model.input_embedder, self.source.name
        if self.modality is not None:
            self.modality.copy_(embedder.modality_embedding.weight[model.modalities.index(name)])
        if self.positions is not None:
            table = embedder.positions
            start, stop = (edge - table.num_fixed for edge in table.map.rows[name])
            self.positions.copy_(table.learned[start:stop])

    def place(self, size: tuple[int, int] | int, device: torch.device | None = None) -> Tensor:
        """(n, dim) position and modality of the tokens of a grid of (rows, columns), or of a sequence."""
        where = self._where(size).to(device) if self.has_positions else torch.zeros(1, self.dim, device=device)
        return where if self.modality is None else where + self.modality

    def _where(self, size: tuple[int, int] | int) -> Tensor:
        """(n, dim) positions."""
        table = self.positions
        if isinstance(size, int):
            return sincos_1d(size, self.dim) if table is None else table[:size]
        grid = self.source.grid
        if table is not None:
            maps = table.T.reshape(1, self.dim, grid.height, grid.width)
            return resize_table(maps, *size).flatten(2)[0].T
        trained = size if self.counted else (grid.height, grid.width)
        rows, columns = (fitted_places(n, full) for n, full in zip(size, trained))
        return sincos_places(rows, columns, self.dim, columns_first=self.source.positions == "sincos_xy")

    def located(self, content: Tensor, size: tuple[int, int] | None, valid: Tensor | None = None) -> Embedded:
        """Content (B, n, dim) with its places."""
        length = int(content.shape[1])  # a tensor while operations are counted
        x = content + self.place(size or length, content.device)
        return Embedded(x if valid is None else x * valid[..., None], size, valid)

    def wrong(self, value: Tensor, expected: str) -> DataError:
        """The error for an input of another shape."""
        return DataError(
            f"modality '{self.source.name}': the input has shape {tuple(value.shape)}; expected {expected}"
        )


class PatchStem(Stem):
    """Patches of pixels, or single vectors of features; images whose sides do not divide are padded with zeros.

    Args:
        model: config of the model, for how it projects patches.
        channels: those of the image that are read; None: all.

    Raises:
        ConfigError: if the modality has no such channels.
    """

    def __init__(self, modality: Modality, model: MultimodalConfig, channels: list[int] | None = None) -> None:
        super().__init__(modality, model)
        self.patch_size = modality.grid.patch_size
        self.all_channels = modality.channels or 1
        self.channels = list(range(self.all_channels)) if channels is None else channels
        if not self.channels or not set(self.channels) <= set(range(self.all_channels)):
            raise ConfigError(
                f"channels.{modality.name} is {self.channels}; expected some of its channels, 0 to "
                f"{self.all_channels - 1}"
            )
        self.projection = nn.Linear(self.patch_size**2 * len(self.channels), model.dim, bias=model.patch_bias)
        self.norm = make_norm(model.trunk(0, cross_attention=False)) if model.patch_norm else nn.Identity()

    @torch.no_grad()
    def adopt(self, model: Any) -> None:
        """Take the patch weights too; those of channels that are not read stay behind."""
        super().adopt(model)
        name = self.source.name
        trained = model.input_embedder.projections[name]
        plain = isinstance(trained, nn.Linear)
        self._adopt_patches(trained if plain else trained.linear, list(range(self.all_channels)))
        if not plain:
            self.norm.load_state_dict(trained.norm.state_dict())

    @torch.no_grad()
    def take(self, other: Stem) -> None:
        """Take the weights of another embedder of this modality; those of channels that are not read stay behind.

        Raises:
            CheckpointError: if it does not read a channel that this one reads.
        """
        assert isinstance(other, PatchStem)
        self._adopt_patches(other.projection, other.channels)
        rest = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith("projection.")}
        self.load_state_dict(rest, strict=False)

    def _adopt_patches(self, projection: nn.Linear, channels: list[int]) -> None:
        lacking = sorted(set(self.channels) - set(channels))
        if lacking:
            raise CheckpointError(
                f"channels.{self.source.name} asks for channel {lacking[0]}; the trained network reads {channels}"
            )
        chosen = [channels.index(channel) for channel in self.channels]
        weight = projection.weight.unflatten(1, (-1, len(channels)))[..., chosen].flatten(1)
        self.projection.weight.copy_(weight)
        if self.projection.bias is not None:
            self.projection.bias.copy_(projection.bias)

    def forward(self, images: Tensor) -> Embedded:
        """(B, C, H, W) normalised images, with all channels or those that are read."""
        counts = {self.all_channels, len(self.channels)}
        if images.dim() != 4 or int(images.shape[1]) not in counts:  # sizes are tensors while operations are counted
            raise self.wrong(images, f"(B, {' or '.join(map(str, sorted(counts)))}, H, W)")
        if int(images.shape[1]) != len(self.channels):
            images = images[:, self.channels]
        p, (height, width) = self.patch_size, (int(side) for side in images.shape[-2:])
        if height % p or width % p:
            images = F.pad(images, (0, -width % p, 0, -height % p))
        size = -(-height // p), -(-width // p)
        return self.located(self.norm(self.projection(patchify(images.to(self.projection.weight.dtype), p))), size)


class TokenStem(Stem):
    """Token ids of a grid or a sequence."""

    def __init__(self, modality: Modality, model: MultimodalConfig) -> None:
        super().__init__(modality, model)
        self.weight = nn.Parameter(torch.empty(modality.vocab_size, model.dim))

    @torch.no_grad()
    def adopt(self, model: Any) -> None:
        """Take the rows of the concatenated table too."""
        super().adopt(model)
        self.weight.copy_(model.input_embedder.table.rows(self.source.name))

    def forward(self, ids: Tensor) -> Embedded:
        """(B, rows, columns) or, at the trained size or of a sequence, (B, n) ids; -1 pads sequences at their end."""
        if ids.is_floating_point() or ids.dim() not in (2, 3 if self.source.is_grid else 2):
            raise self.wrong(ids, "(B, rows, columns) or (B, n) integers" if self.source.is_grid else "(B, n) integers")
        if not self.source.is_grid:
            if ids.shape[1] > self.source.layout.num_positions:
                raise self.wrong(ids, f"(B, n) with at most {self.source.layout.num_positions} ids")
            valid = ids >= 0
            return self.located(F.embedding(ids.clamp(min=0), self.weight) * valid[..., None], None, valid)
        grid = self.source.grid
        size = (grid.height, grid.width) if ids.dim() == 2 else (ids.shape[1], ids.shape[2])
        flat = ids.flatten(1)
        if flat.shape[1] != size[0] * size[1]:
            raise self.wrong(ids, f"(B, {grid.num_tokens}), or (B, rows, columns)")
        return self.located(F.embedding(flat, self.weight), size)


class VectorStem(Stem):
    """A sequence of vectors made by another network, such as embedded captions."""

    def __init__(self, modality: Modality, model: MultimodalConfig) -> None:
        super().__init__(modality, model)
        assert isinstance(modality.content, Continuous)
        self.projection = nn.Linear(modality.content.dim, model.dim)

    @torch.no_grad()
    def adopt(self, model: Any) -> None:
        """Take the projection too."""
        super().adopt(model)
        self.projection.load_state_dict(model.input_embedder.projections[self.source.name].state_dict())

    def forward(self, vectors: Tensor) -> Embedded:
        """(B, n, d) vectors, n at most the modality's positions."""
        most = self.source.layout.num_positions
        if vectors.dim() != 3 or vectors.shape[2] != self.projection.in_features or vectors.shape[1] > most:
            raise self.wrong(vectors, f"(B, n, {self.projection.in_features}), n at most {most}")
        return self.located(self.projection(vectors.to(self.projection.weight.dtype)), None)


def build_stem(modality: Modality, model: MultimodalConfig, channels: list[int] | None = None) -> Stem:
    """The embedder of a modality, with new weights.

    Args:
        modality: whose.
        model: config of the model that it belongs to.
        channels: those of an image that are read; None: all.

    Raises:
        ConfigError: if the modality has no such channels.
    """
    if modality.is_grid and not modality.is_discrete:
        return PatchStem(modality, model, channels)
    kind = TokenStem if modality.is_discrete else VectorStem
    return kind(modality, model)
