"""A model of ours as a tower: one of its modalities in, hidden states out."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm import catalog
from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Modality, ModalitySet, from_dict
from fourm.models.configs import MultimodalConfig
from fourm.models.stems import build_stem
from fourm.models.vision_configs import ModelTowerConfig
from fourm.nn.init import fill_normal
from fourm.nn.towers import ImageFacts, Tower
from fourm.nn.trunk import Trunk
from fourm.patterns import AttentionPattern


class ModelTower(Tower):
    """The encoder of a `Multimodal`, or the decoder of one without an encoder; all tokens see one another, or, with
    `causal`, those before them.

    Args:
        image: what it reads; None: any modality, as `config.image` says.
        config: which model.

    Attributes:
        has_weights: trained ones are in it already.

    Raises:
        ConfigError: if the model is not there, or reads other images.
        CheckpointError: if its weights cannot be loaded.
    """

    def __init__(self, image: ImageFacts | None, config: ModelTowerConfig) -> None:
        super().__init__()
        model, modality = _facts(config)
        if image is not None:
            _check(image, modality)
        depth = model.reading_depth
        if depth + (config.layer or -1) < 0:
            raise ConfigError(f"tower.layer is {config.layer}, but the model has {depth} blocks")
        self.layer = None if config.layer is None else depth + config.layer
        self.modality, self.modalities, self.causal = modality, ModalitySet([modality]), config.causal
        self.config = model
        self.stem = build_stem(modality, model)
        count, self.std = model.num_register_tokens if model.encoder_depth else 0, model.embedding_std
        self.registers = nn.Parameter(torch.empty(count, model.dim)) if count else None
        self.encoder = Trunk(model.trunk(depth if self.layer is None else self.layer + 1, cross_attention=False))
        if self.layer is not None:
            self.encoder.norm = nn.Identity()  # nothing reads it
        self.dim, self.grid = model.dim, _grid(image, modality)
        on_meta = torch.empty(0).device.type == "meta"  # weights come later, from a folder of ours
        self.has_weights = config.path is not None and not on_meta
        if self.has_weights:
            self._adopt(config)

    @torch.no_grad()
    def _adopt(self, config: ModelTowerConfig) -> None:
        from fourm.models.folder import load_model

        trained: Any = load_model(cast(Any, config.path))
        trunk = trained.decoder if trained.encoder is None else trained.encoder
        own = self.encoder.state_dict()
        try:
            self.stem.adopt(trained)
            self.encoder.load_state_dict({name: tensor for name, tensor in trunk.state_dict().items() if name in own})
            if self.registers is not None:
                self.registers.copy_(trained.registers)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"tower.model and image are not those of the model in {config.path}: {str(error).strip()}. Leave them "
                "out, or correct them"
            ) from None

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the register tokens."""
        if self.registers is not None:
            fill_normal(self.registers, generator, self.std)

    def forward(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """Read images, ids or vectors.

        Args:
            values: (n, C, H, W) images, (n, P) ids, -1 at the end of shorter texts, or (n, P, d) vectors.
            valid: (n, P) bool, False on the padding of vectors.

        Returns:
            (n, P, dim), those of patches row by row.
        """
        x, _, known = self.stem(values)
        if valid is not None and known is None:
            x = x * valid[..., None]
        valid = known if known is not None else valid
        if self.registers is not None:
            x = torch.cat([self.registers.expand(len(x), -1, -1).to(x.dtype), x], 1)
            valid = None if valid is None else F.pad(valid, (len(self.registers), 0), value=True)
        hidden = cast(Tensor, self.encoder(x, attention=self._pattern(x, valid)))
        return hidden if self.registers is None else hidden[:, len(self.registers) :]

    def _pattern(self, x: Tensor, valid: Tensor | None) -> AttentionPattern | None:
        if not self.causal:
            return None if valid is None else AttentionPattern.full(valid)
        everywhere = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return AttentionPattern.causal(everywhere if valid is None else valid)


def _grid(image: ImageFacts | None, modality: Modality) -> tuple[int, int]:
    """(rows, columns) of the tokens; a sequence is one row."""
    if image is not None:
        return image.height // modality.grid.patch_size, image.width // modality.grid.patch_size
    return (modality.grid.height, modality.grid.width) if modality.is_grid else (1, modality.num_tokens)


def _facts(config: ModelTowerConfig) -> tuple[MultimodalConfig, Modality]:
    """The model, and its modality that is read.

    Raises:
        ConfigError: if they are not known.
    """
    name = config.modality or "image"
    if config.model is None or not (config.image or name in catalog.MODALITIES):
        where = "neither path nor model and image are given" if config.path is None else f"no model is at {config.path}"
        raise ConfigError(f"tower: {where}: give the folder `model` inside the output of a training, once it is done")
    if not isinstance(config.model, MultimodalConfig):
        raise ConfigError(f"tower.model is {type(config.model).__name__}; a tower is a model of kind multimodal")
    return config.model, from_dict(name, config.image) if config.image else catalog.get(name)


def _check(image: ImageFacts, modality: Modality) -> None:
    """Whether a model can read these images.

    Raises:
        ConfigError: if not.
    """
    if not modality.is_grid or modality.is_discrete or modality.channels is None or not modality.is_input:
        raise ConfigError(f"tower.image: '{modality.name}' is no image that the model reads as patches of pixels")
    for fact, ours, theirs in (
        ("channels", image.channels, modality.channels),
        ("normalization", image.normalization, modality.normalization),
    ):
        if ours != theirs:
            raise ConfigError(
                f"modality '{image.name}' has {fact} {ours}, but the tower was trained on '{modality.name}' with "
                f"{theirs}: set modalities.{image.name}.{fact} to {theirs}"
            )
    patch = modality.grid.patch_size
    if image.height % patch or image.width % patch:
        raise ConfigError(
            f"modality '{image.name}' has images of {image.height} x {image.width} pixels, which the tower cannot cut "
            f"into patches of {patch} x {patch}: choose multiples"
        )
