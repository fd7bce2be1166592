"""Token tables to vectors: one table for all discrete modalities, a projection or a feeder per continuous one.

Row numbers of the concatenated table come from a map modality -> rows, so embedding is a single gather without a loop
over modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.layouts import Continuous
from fourm.modality import ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.tables import ModalityEmbedding, PositionTable, TokenTable
from fourm.nn.init import fill_normal
from fourm.nn.trunk import make_norm
from fourm.tokens import TokenBatch, target_of


class PatchProjection(nn.Module):
    """A linear layer and a norm on patches, as in AIM (El-Nouby et al. 2024); either part of it as the config says.

    Args:
        dim: of a patch.
        config: of the model.
    """

    def __init__(self, dim: int, config: MultimodalConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, config.dim, bias=config.patch_bias)
        self.norm = make_norm(config.trunk(0, cross_attention=False)) if config.patch_norm else nn.Identity()

    def forward(self, patches: Tensor) -> Tensor:
        """(..., dim of a patch) -> (..., dim of the model)."""
        return cast(Tensor, self.norm(self.linear(patches)))


def patch_projections(modalities: ModalitySet, config: MultimodalConfig) -> dict[str, nn.Module]:
    """What makes tokens of patches, where it is more than a matrix."""
    return {
        m.name: PatchProjection(m.content.dim, config)
        for m in modalities.inputs
        if isinstance(m.content, Continuous) and m.is_grid and (config.patch_bias or config.patch_norm)
    }


class Embedded(NamedTuple):
    """An embedded token table.

    Args:
        content: (B, N, dim), zero on padding.
        place: (B, N, dim) position plus modality, or (1, 1, 1) zero.
        vectors: modality with slots -> (n, content.dim) vectors that were made of its images, or given.
    """

    content: Tensor
    place: Tensor
    vectors: dict[str, Tensor]

    def targets(self, batch: TokenBatch) -> dict[str, Tensor]:
        """The vectors that a table asks of modalities with slots, under `target_of(name)`; they have no gradient."""
        found = {}
        for name, asked in batch.slots_asked.items():
            if name not in batch.target_rows:
                continue
            vectors = self.vectors[name].detach()
            made = vectors[asked.clamp(min=0)]
            if vectors.shape[1] == self.content.shape[2]:  # else nothing asks for an embedding
                follows = asked < 0
                behind = torch.where(follows, batch.target_rows[name] + 1, 0)
                made = torch.where(follows[:, None], self.content.detach().flatten(0, 1)[behind].to(made.dtype), made)
            found[target_of(name)] = made
        return found


class InputEmbedder(nn.Module):
    """Embeds what the model reads; content apart from position plus modality, which a decoder may need alone.

    Args:
        modalities: all modalities of the model.
        dim: width.
        std: deviation of new embeddings.
        modality_embedding: of each modality; None: tokens carry none.
        positions: whether tokens carry embeddings of their positions.
        table: what embeds the ids; None: rows of its own.
        projections: continuous modality -> what makes tokens of its vectors, where it is no plain linear layer.
        feeders: modality -> trunk that makes tokens of its patches, or of one with slots vectors of its images; these
            tokens carry no embeddings of ours.
    """

    def __init__(
        self,
        modalities: ModalitySet,
        dim: int,
        std: float,
        modality_embedding: ModalityEmbedding | None,
        *,
        positions: bool = True,
        table: TokenTable | None = None,
        projections: Mapping[str, nn.Module] | None = None,
        feeders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.feeders = nn.ModuleDict(feeders or {})
        self.fed = [modalities.index(name) for name in self.feeders]
        inputs = modalities.inputs
        self.slots = [m.name for m in inputs if m.is_slots]
        self.table = TokenTable(modalities, [m for m in inputs if m.is_discrete], dim, std) if table is None else table
        placed = [m for m in inputs if m.name not in self.feeders]
        self.positions = PositionTable(modalities, placed, dim, std) if positions else None
        self.modality_embedding = modality_embedding
        self.projections = nn.ModuleDict()
        for m in inputs:
            if isinstance(m.content, Continuous) and m.name not in self.feeders:
                # 4M: pixel patches have no bias, projected caption embeddings have one
                projection = nn.Linear(m.content.dim, dim, bias=not m.is_grid)
                try:
                    self.projections[m.name] = (projections or {}).get(m.name, projection)
                except KeyError as error:  # `values` and the like are methods of torch's modules
                    raise ConfigError(
                        f"modality '{m.name}' cannot be called so ({error}): give it another name, for instance "
                        f"{m.name}_1"
                    ) from None

    def forward(self, batch: TokenBatch) -> Embedded:
        """Embed a token table."""
        content = self.table(batch.modality, batch.ids) * (batch.ids >= 0)[..., None]
        shape = content.shape
        flat = content.flatten(0, 1)
        made = {n: self.vectors(n, batch) for n in self.slots if n in batch.images or n in batch.values}
        absent = {n for n in self.slots if n not in made}  # tables of words alone need not name them
        for name, projection in self.projections.items():
            if name in absent:
                continue
            read = made[name][batch.slots_read[name]] if name in made else batch.values[name]
            vectors = projection(read.to(next(projection.parameters()).dtype))
            flat = flat.index_put((batch.value_rows[name],), vectors.to(flat.dtype))
        place = place_of(batch, self.positions, self.modality_embedding)
        placed = batch.valid
        for name, feeder in self.feeders.items():
            if name in absent:
                continue
            rows = batch.value_rows[name]
            if name in made:
                vectors = cast(Any, feeder).project(made[name][batch.slots_read[name]])
            else:
                sample = torch.div(rows, shape[1], rounding_mode="floor")
                vectors = feeder(
                    batch.values[name], sample, batch.position.flatten()[rows], shape[0], batch.prefix.get(name)
                )
            flat = flat.index_put((rows,), vectors.to(flat.dtype))
        for number in self.fed:
            placed = placed & (batch.modality != number)
        return Embedded(flat.view(shape), place * placed[..., None], made)

    def vectors(self, name: str, batch: TokenBatch) -> Tensor:
        """(n, content.dim) vectors of a modality with slots: made of its images, or those that are given.

        Raises:
            ConfigError: if there are images, and nothing to make vectors of them.
        """
        if name not in batch.images:
            return batch.values[name]
        if name in self.feeders:
            return cast(Tensor, self.feeders[name](batch.images[name]).flatten(0, 1))
        if batch.images[name].shape[0]:
            raise ConfigError(
                f"modality '{name}' comes as images, of which this model makes no vectors: set model.feeders.{name}, "
                "or give the vectors"
            )
        return batch.images[name].new_zeros(0, cast(nn.Linear, self.projections[name]).in_features)


def place_of(batch: TokenBatch, positions: PositionTable | None, modalities: ModalityEmbedding | None) -> Tensor:
    """(B, N, dim) embeddings of position plus modality, or (1, 1, 1) zero where tokens carry neither."""
    if positions is not None:
        place: Tensor = positions(batch.modality, batch.position)
        return place if modalities is None else place + modalities(batch.modality)
    if modalities is not None:
        return cast(Tensor, modalities(batch.modality))
    return torch.zeros(1, 1, 1, device=batch.modality.device)


class TargetEmbedder(nn.Module):
    """Embeds the decoder's table: earlier ids of sequences, the mask token elsewhere, plus position and modality."""

    def __init__(
        self,
        modalities: ModalitySet,
        dim: int,
        std: float,
        modality_embedding: ModalityEmbedding | None,
        table: TokenTable | None,
        *,
        positions: bool = True,
    ) -> None:
        super().__init__()
        sequences = [m for m in modalities.outputs if not m.is_grid]
        self.table = TokenTable(modalities, sequences, dim, std) if table is None else table
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.positions = PositionTable(modalities, modalities.outputs, dim, std, targets=True) if positions else None
        self.modality_embedding = modality_embedding
        self.std = std

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the mask token."""
        fill_normal(self.mask_token, generator, self.std)

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, N, dim) embedded table."""
        has_id = (batch.ids >= 0)[..., None]
        embedded = self.table(batch.modality, batch.ids)
        content = torch.where(has_id, embedded, self.mask_token.to(embedded.dtype))
        place = place_of(batch, self.positions, self.modality_embedding)
        return (content + place) * batch.valid[..., None]
