"""What recipes of decoders alone check: whether what is asked can be told, and is not told already. Free of torch."""

from __future__ import annotations

from typing import Any

from fourm.errors import ConfigError
from fourm.modality import ModalitySet
from fourm.objectives.configs import AutoregressiveConfig


def check_rows(modalities: ModalitySet, model: Any, objective: AutoregressiveConfig) -> None:
    """All of them.

    Raises:
        ConfigError: naming what does not fit.
    """
    _check_feeders(modalities, model, objective)
    _check_regress_end(modalities, model, objective)


def _check_feeders(modalities: ModalitySet, model: Any, objective: AutoregressiveConfig) -> None:
    """See that a trunk in which patches see one another says nothing of patches that are asked."""
    feeders, order = getattr(model, "feeders", {}), objective.order or modalities
    fed = [m for m in modalities.values() if m.name in feeders and not m.is_slots]
    told = [m.name for m in fed if m.is_predicted and m.name in order]
    if told and objective.prefix != "fed":
        raise ConfigError(
            f"objective.prefix is {objective.prefix}, with which all patches of '{told[0]}' see one another in "
            f"model.feeders, also those that are asked: set objective.prefix to fed, or modalities.{told[0]}.direction "
            "to input"
        )
    if objective.prefix == "fed" and not fed:
        raise ConfigError(
            "objective.prefix fed is for images that a trunk of model.feeders reads first, and there is none: set it "
            "to uniform, or name one"
        )


def _check_regress_end(modalities: ModalitySet, model: Any, objective: AutoregressiveConfig) -> None:
    """See that vectors which stand for the embedding of an end have its width."""
    for modality in modalities.values() if objective.regress_end else ():
        size = getattr(modality.content, "dim", None)
        if modality.is_slots and modality.is_predicted and size != model.dim:
            raise ConfigError(
                f"objective.regress_end asks for an embedding of {model.dim} numbers in the place of a vector of "
                f"{size}: set modalities.{modality.name}.content.dim to model.dim, or leave it out"
            )
