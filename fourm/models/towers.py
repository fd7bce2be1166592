"""A model of ours as a tower: patches of an image in, hidden states out."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fourm import catalog
from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Modality, from_dict
from fourm.models.configs import MultimodalConfig
from fourm.models.stems import PatchStem
from fourm.models.vision_configs import ModelTowerConfig
from fourm.nn.init import fill_normal
from fourm.nn.towers import ImageFacts, Tower
from fourm.nn.trunk import Trunk


class ModelTower(Tower):
    """The encoder of a `Multimodal`, or the decoder of one without an encoder; all patches see one another.

    Args:
        image: what it reads.
        config: which model.

    Attributes:
        has_weights: trained ones are in it already.

    Raises:
        ConfigError: if the model is not there, or reads other images.
        CheckpointError: if its weights cannot be loaded.
    """

    def __init__(self, image: ImageFacts, config: ModelTowerConfig) -> None:
        super().__init__()
        model, modality = _facts(config)
        _check(image, modality)
        depth = model.reading_depth
        if depth + (config.layer or -1) < 0:
            raise ConfigError(f"tower.layer is {config.layer}, but the model has {depth} blocks")
        self.layer = None if config.layer is None else depth + config.layer
        self.stem = PatchStem(modality, model)
        count, self.std = model.num_register_tokens if model.encoder_depth else 0, model.embedding_std
        self.registers = nn.Parameter(torch.empty(count, model.dim)) if count else None
        self.encoder = Trunk(model.trunk(depth if self.layer is None else self.layer + 1, cross_attention=False))
        if self.layer is not None:
            self.encoder.norm = nn.Identity()  # nothing reads it
        patch = modality.grid.patch_size
        self.dim, self.grid = model.dim, (image.height // patch, image.width // patch)
        on_meta = self.stem.projection.weight.device.type == "meta"  # weights come later, from a folder of ours
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

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, P, dim), the patches row by row."""
        x = self.stem(images).x
        if self.registers is not None:
            x = torch.cat([self.registers.expand(len(x), -1, -1).to(x.dtype), x], 1)
        hidden = cast(Tensor, self.encoder(x, attention=None))
        return hidden if self.registers is None else hidden[:, len(self.registers) :]


def _facts(config: ModelTowerConfig) -> tuple[MultimodalConfig, Modality]:
    """The model, and its modality of pixels.

    Raises:
        ConfigError: if they are not known.
    """
    name = config.modality or "image"
    if config.model is None or not (config.image or name in catalog.MODALITIES):
        where = "neither path nor model and image are given" if config.path is None else f"no model is at {config.path}"
        raise ConfigError(f"tower: {where}: give the folder `model` inside the output of a training, once it is done")
    if not isinstance(config.model, MultimodalConfig):
        raise ConfigError(f"tower.model is {type(config.model).__name__}; a tower is a model of kind multimodal")
    modality = from_dict(name, config.image) if config.image else catalog.get(name)
    if not modality.is_grid or modality.is_discrete or modality.channels is None or not modality.is_input:
        raise ConfigError(f"tower.image: '{modality.name}' is no image that the model reads as patches of pixels")
    return config.model, modality


def _check(image: ImageFacts, modality: Modality) -> None:
    """Whether a model can read these images.

    Raises:
        ConfigError: if not.
    """
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
