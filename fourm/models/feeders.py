"""Networks that read a modality of their own first, and whose outputs are what the model reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.embed import InputEmbedder, patch_projections
from fourm.models.tables import ModalityEmbedding
from fourm.nn.trunk import Trunk
from fourm.patterns import AttentionPattern
from fourm.registry import implementation
from fourm.tokens import PADDING, TokenBatch

_UNUSED = ("vector_head", "code_dim", "codebook_init", "init_std", "head_std")
"""Options of a model that mean nothing here."""


class Feeder(nn.Module):
    """The vision encoder of AIMv2 (Fini et al. 2024): patches see their prefix, or one another; a linear layer follows.

    It has the parts of a `Multimodal` without an encoder, so that a backbone can be made of it.

    Args:
        modality: patches of pixels on a grid, at most one image in a row.
        config: of its trunk, which is the decoder of a model without an encoder.
        dim: width of the model that reads the outputs.

    Raises:
        ConfigError: if the modality holds no patches, or the config has an encoder or options without effect.
    """

    encoder = None
    registers = None

    def __init__(self, modality: Modality, config: MultimodalConfig, dim: int) -> None:
        super().__init__()
        if modality.is_discrete or not modality.is_grid:
            raise ConfigError(f"model.feeders: '{modality.name}' is no grid of pixels, which feeders read")
        if config.encoder_depth or config.feeders:
            raise ConfigError(
                f"model.feeders.{modality.name} is one trunk: set its encoder_depth to 0, and leave out its feeders"
            )
        ignored = [key for key in _UNUSED if getattr(config, key) not in (None, False)]
        if ignored:
            raise ConfigError(
                f"model.feeders.{modality.name}.{ignored[0]} has no effect: a feeder reads pixels and predicts "
                "nothing, and its weights start as the model's. Leave it out"
            )
        self.modalities, self.config = ModalitySet([replace(modality, direction="input")]), config
        embedding = ModalityEmbedding(1, config.dim, config.embedding_std) if config.modality_embeddings else None
        self.input_embedder = InputEmbedder(
            self.modalities, config.dim, config.embedding_std, embedding, positions=config.position_tables,
            projections=patch_projections(self.modalities, config),
        )  # fmt: skip
        self.decoder = Trunk(config.trunk(config.decoder_depth, cross_attention=False))
        self.projection = nn.Linear(config.dim, dim)

    def forward(self, patches: Tensor, sample: Tensor, position: Tensor, num: int, prefix: Tensor | None) -> Tensor:
        """Read the images of a batch.

        Args:
            patches: (n, content.dim) of all images.
            sample: (n,) row of the batch that each belongs to.
            position: (n,) its place in the image.
            num: rows of the batch.
            prefix: (num,) patches of each image that see one another, while later ones see those before them; None: all
                see all.

        Returns:
            (n, dim) of the model that reads them.
        """
        ((name, modality),) = self.modalities.items()
        size, index = modality.num_tokens, sample * modality.num_tokens + position
        valid = torch.zeros(num * size, dtype=torch.bool, device=patches.device)
        valid = valid.index_put((index,), torch.ones_like(index, dtype=torch.bool)).view(num, size)
        attention = AttentionPattern.full(valid) if prefix is None else AttentionPattern.prefix_causal(valid, prefix)
        none = torch.full(valid.shape, PADDING, dtype=torch.int64, device=patches.device)
        places = torch.ones_like(none).cumsum(1) - 1
        batch = TokenBatch(
            valid.long() - 1, places, none, none, attention, values={name: patches}, value_rows={name: index}
        )
        content, place, _ = self.input_embedder(batch)
        return self.projection(self.decoder(content + place, attention=attention).flatten(0, 1)[index])


def build_feeders(modalities: ModalitySet, config: MultimodalConfig) -> dict[str, nn.Module]:
    """The feeders of a model.

    Raises:
        ConfigError: if one is of a modality that the model does not read.
    """
    feeders: Mapping[str, Any] = config.feeders
    unknown = sorted(set(feeders) - {m.name for m in modalities.inputs})
    if unknown:
        raise ConfigError(f"model.feeders: '{unknown[0]}' is no modality that the model reads")
    for name, own in feeders.items():
        if own.reads_slots != modalities[name].is_slots:
            here, there = ("patches", "slots") if modalities[name].is_slots else ("slots", "patches")
            raise ConfigError(
                f"model.feeders.{name} makes tokens of {here}, but the modality has {there}: "
                f"{'set its kind to vision' if modalities[name].is_slots else 'set its layout.kind to slots'}"
            )
    return {name: implementation(own.feeder)(modalities[name], own, config.dim) for name, own in feeders.items()}
