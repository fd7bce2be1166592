"""Configuration of distillation, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourm.config import slot
from fourm.errors import ConfigError
from fourm.objectives.configs import OBJECTIVES
from fourm.ranges import check_range


@dataclass
class DistillConfig:
    """Also answer as a teacher does (Hinton et al. 2015; DeLVM, Guo et al. 2024, sec. 3.3).

    A token costs own_weight * loss + weight * T^2 * KL(teacher || student), with both distributions at temperature T.
    Vectors have the squared distance of the two answers in place of the divergence.

    Args:
        teacher: a trained model over the same modalities, as `init_from` may name it.
        of: the objective that samples and asks; evaluation is by it alone.
        own_weight: of its own loss.
        weight: of the teacher's answers.
        temperature: of both distributions.
        reverse: KL(student || teacher).
    """

    target: ClassVar[str] = "fourm.objectives.distill:Distill"

    teacher: Path
    of: Any = slot(OBJECTIVES, default="autoregressive")
    own_weight: float = 1.0
    weight: float = 1.0
    temperature: float = 1.0
    reverse: bool = False

    def __post_init__(self) -> None:
        check_range(self, "own_weight", "weight", least=0)
        check_range(self, "temperature", above=0)
        if not hasattr(self.of, "modality_weights"):
            raise ConfigError("objective.of has to ask tokens: set its kind to autoregressive or masked")


def asking(objective: Any) -> Any:
    """The config of what an objective asks: its own, or that of the one around which it distils."""
    return objective.of if isinstance(objective, DistillConfig) else objective
