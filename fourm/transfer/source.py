"""What of a trained model a backbone reads its modalities with."""

from __future__ import annotations

from typing import Any

from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Modality, ModalitySet
from fourm.transfer.configs import BackboneConfig


def reader(model: Any, config: BackboneConfig) -> Any:
    """What reads the modalities: a model, or the trunk that reads one of them first."""
    feeders = model.input_embedder.feeders
    known = [name for name in config.modalities if name not in config.new] if len(feeders) else []
    fed = [name for name in known if choose(name, model.modalities).name in feeders]
    if fed and len(config.modalities) > 1:
        raise ConfigError(
            f"backbone.modalities names {', '.join(config.modalities)}, but in this model '{fed[0]}' is read by a "
            f"trunk of its own: write modalities: [{fed[0]}]"
        )
    return feeders[choose(fed[0], model.modalities).name] if fed else model


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
