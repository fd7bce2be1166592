"""What of a trained model a backbone reads its modalities with."""

from __future__ import annotations

from typing import Any

from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Modality, ModalitySet
from fourm.models.contrastive import Contrastive
from fourm.models.towers import ModelTower
from fourm.transfer.configs import BackboneConfig


def reader(model: Any, config: BackboneConfig) -> Any:
    """What reads the modalities: a model, the trunk that reads one of them first, or the tower of one.

    Raises:
        ConfigError: if such a trunk or tower is to read several, or the tower is none that a backbone can be made of.
    """
    if isinstance(model, Contrastive):
        return _tower(model, config)
    feeders = model.input_embedder.feeders
    known = [name for name in config.modalities if name not in config.new] if len(feeders) else []
    fed = [name for name in known if choose(name, model.modalities).name in feeders]
    if fed and len(config.modalities) > 1:
        raise ConfigError(
            f"backbone.modalities names {', '.join(config.modalities)}, but in this model '{fed[0]}' is read by a "
            f"trunk of its own: write modalities: [{fed[0]}]"
        )
    return feeders[choose(fed[0], model.modalities).name] if fed else model


def _tower(model: Contrastive, config: BackboneConfig) -> ModelTower:
    """The tower of a contrastive model that reads what a backbone is asked to read."""
    known = [choose(name, model.modalities).name for name in config.modalities if name not in config.new]
    if len(config.modalities) != 1 or not known:
        raise ConfigError(
            f"backbone.modalities names {', '.join(config.modalities)}, but in a contrastive model each modality has a "
            f"tower of its own: write one of {', '.join(model.modalities)}"
        )
    tower = model.towers[known[0]]
    if not isinstance(tower, ModelTower) or tower.causal or tower.layer is not None:
        raise ConfigError(
            f"the tower of '{known[0]}' is no trunk of ours in which all tokens see one another, up to the last block: "
            "no backbone can be made of it"
        )
    return tower


def choose(name: str, modalities: ModalitySet, new: ModalitySet | None = None) -> Modality:
    """The modality that is meant by its full name, an alias, or its name without the resolution.

    Args:
        name: as written.
        modalities: of a model.
        new: where to look instead, for one that is not the model's.

    Raises:
        CheckpointError: if the model reads none of that name, or several.
    """
    if new is not None:
        return new[name]
    for fits in (lambda m: name == m.name or name in m.aliases, lambda m: name == m.key):
        found = [m for m in modalities.inputs if fits(m)]
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"modality '{name}' could be {' or '.join(m.name for m in found)} of the checkpoint: write the full "
                "name"
            )
    raise CheckpointError(
        f"the checkpoint does not read '{name}'. It reads {', '.join(m.name for m in modalities.inputs)}. Choose among "
        f"these, take another checkpoint, or name it under `new` too, so that its embedder starts at random"
    )
