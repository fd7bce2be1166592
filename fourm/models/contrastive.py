"""A tower for each modality, and vectors that are alike where inputs belong together (CLIP, Radford et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import CheckpointError, ConfigError, did_you_mean
from fourm.modality import Modality, ModalitySet, to_dict
from fourm.models.contrastive_configs import ContrastiveConfig, ContrastiveTowerConfig
from fourm.models.vision_configs import ModelTowerConfig
from fourm.nn.attention import Attention, AttentionMask
from fourm.nn.init import fill_normal, initialise
from fourm.nn.precision import product_dtype
from fourm.nn.towers import ImageFacts, Tower
from fourm.patterns import AttentionPattern
from fourm.registry import implementation

_QUERY_STD = 0.02
_HEAD = 64
"""Numbers of a head where a learned query attends."""


class Contrastive(nn.Module):
    """Towers, poolers and projections to one space.

    Args:
        modalities: what it reads; there is a tower for each.
        config: the towers.
        seed: of the initial weights.

    Attributes:
        modalities: as given, as inputs alone: it generates nothing.

    Raises:
        ConfigError: if a modality has no tower, a tower has no modality, or they do not go with one another.
        CheckpointError: if the weights of a tower cannot be loaded.
    """

    def __init__(self, modalities: ModalitySet, config: ContrastiveConfig, seed: int = 0) -> None:
        super().__init__()
        for name in (*config.towers, *modalities):
            if name not in modalities or name not in config.towers:
                known = modalities if name in config.towers else config.towers
                raise ConfigError(
                    f"model.towers: each modality needs a tower, and '{name}' is only one of the two."
                    f"{did_you_mean(name, known)}"
                )
        self.modalities = ModalitySet(replace(m, direction="input") for m in modalities.values())
        self.config = config
        self.towers, self.poolers, self.projections = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for m in self.modalities.values():
            tower = self.towers[m.name] = build_tower(m, config.towers[m.name])
            if config.towers[m.name].pool == "query":
                self.poolers[m.name] = QueryPool(tower.dim)
            self.projections[m.name] = nn.Linear(tower.dim, config.dim, bias=False)
        # Of one number each, since what has no dimension cannot be shared out over ranks.
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = None if config.logit_bias is None else nn.Parameter(torch.empty(1))
        if self.logit_scale.device.type != "meta":
            initialise(self, seed, std=config.init_std)

    @property
    def encoder(self) -> nn.ModuleDict:
        """What reads: its towers. There is no decoder."""
        return self.towers

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Scale and bias as the config says."""
        self.logit_scale.fill_(math.log(self.config.logit_scale))
        if self.logit_bias is not None:
            self.logit_bias.fill_(cast(float, self.config.logit_bias))

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but a tower none of whose weights are trained stays as it answers (no dropout)."""
        super().train(mode)
        for tower in self.towers.values():
            if not any(parameter.requires_grad for parameter in tower.parameters()):
                tower.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Vectors of unit length.

        Args:
            inputs: modality -> (n, C, H, W) images, normalised as it says, (n, P) ids, -1 at the end of shorter texts,
                or (n, P, d) vectors. Texts have their end token.
            valid: modality -> (n, P) bool, False on the padding of vectors.

        Returns:
            modality -> (n, dim).
        """
        return {name: self.embed(name, value, (valid or {}).get(name)) for name, value in inputs.items()}

    def embed(self, name: str, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """(n, dim) vectors of unit length of one modality; see `forward`."""
        hidden, valid = self.features(name, values, valid)
        if self.config.towers[name].pool == "query":
            pooled = self.poolers[name](hidden, valid)
        else:
            pooled = pool(hidden, valid, self.config.towers[name].pool)
        return F.normalize(self.projections[name](pooled).float(), dim=-1)

    def features(self, name: str, values: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the tower of a modality says of each token: (n, P, width), and (n, P) which there are; None: all."""
        modality = self.modalities[name]
        if modality.is_discrete and not modality.is_grid:
            valid = values >= 0
        tower = self.towers[name]
        return tower(values) if valid is None else tower(values, valid), valid

    def scale(self) -> Tensor:
        """(1,) what cosines are multiplied by, at most `max_logit_scale`."""
        most = self.config.max_logit_scale
        return (self.logit_scale if most is None else at_most(self.logit_scale, math.log(most))).exp()

    @torch.no_grad()
    def start_from(self, source: Any) -> None:
        """Take all weights of another contrastive model.

        Raises:
            CheckpointError: if it is none, or has other towers.
        """
        theirs, ours = source.state_dict(), self.state_dict()
        wrong = [n for n, value in ours.items() if n not in theirs or theirs[n].shape != value.shape]
        if not isinstance(source, Contrastive) or wrong:
            raise CheckpointError(
                f"init_from: {wrong[0] if wrong else 'the source'} is not as here; a contrastive model starts from one "
                "with the same towers, and a tower from a model of ours by its encoder.path"
            )
        self.load_state_dict({name: theirs[name] for name in ours})


class QueryPool(nn.Module):
    """A learned query that attends to all tokens, in heads of 64 numbers.

    Args:
        dim: of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, dim))
        self.attention = Attention(dim, dim // _HEAD if dim % _HEAD == 0 else 1, cross=True)

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the query."""
        fill_normal(self.query, generator, _QUERY_STD)

    def forward(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """(n, P, dim) and (n, P) bool -> (n, dim)."""
        query = self.query.expand(len(hidden), -1, -1).to(hidden.dtype)
        there = torch.ones(query.shape[:2], dtype=torch.bool, device=hidden.device)
        pattern = None if valid is None else AttentionPattern.cross(there, valid)
        mask = AttentionMask.prepare(pattern, "auto", product_dtype(hidden))
        return cast(Tensor, self.attention(query, mask, hidden)[:, 0])


def at_most(x: Tensor, most: float) -> Tensor:
    """`x` where it is not larger than `most`, else that.

    CLIP sets its scale back after each step; here what is too large gets those gradients alone that make it smaller,
    since weights that are shared out over ranks cannot be changed within a step.
    """
    held = x + (x.clamp(max=most) - x).detach()
    if held.requires_grad:
        above = x.detach() >= most
        held.register_hook(lambda gradient: torch.where(above & (gradient < 0), 0, gradient))
    return held


def pool(hidden: Tensor, valid: Tensor | None, kind: str) -> Tensor:
    """One vector of each row.

    Args:
        hidden: (n, P, d).
        valid: (n, P) bool, False on padding, which is at the end; None: there is none.
        kind: `mean`, `first`, or `last`.

    Returns:
        (n, d).
    """
    if kind == "first":
        return hidden[:, 0]
    if kind == "last":
        if valid is None:
            return hidden[:, -1]
        end = (valid.long().sum(1) - 1).clamp(min=0)
        return hidden.gather(1, end[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
    if valid is None:
        return hidden.mean(1)
    there = valid[..., None].to(hidden.dtype)
    return (hidden * there).sum(1) / there.sum(1).clamp(min=1)


def build_tower(modality: Modality, config: ContrastiveTowerConfig) -> Tower:
    """The tower of a modality.

    Raises:
        ConfigError: if they do not go with one another.
    """
    encoder, image = config.encoder, None
    if modality.channels is not None and not modality.is_discrete:
        height, width = modality.image_size
        image = ImageFacts(modality.name, height, width, modality.channels, modality.normalization)
    if not isinstance(encoder, ModelTowerConfig):
        if image is None:
            raise ConfigError(f"model.towers.{modality.name} reads images, and '{modality.name}' is none: kind: model")
        return cast(Tower, implementation(encoder.target)(image, encoder))
    if not encoder.image:
        encoder = replace(encoder, modality=encoder.modality or modality.name, image=to_dict(modality))
    tower = cast(Any, implementation(encoder.target)(image, encoder))
    if tower.modality.content != modality.content:
        raise ConfigError(
            f"modality '{modality.name}' has {modality.content}, but its tower was trained on "
            f"{tower.modality.content}: name the same tokenizers"
        )
    return cast(Tower, tower)
