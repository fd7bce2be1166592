"""Configuration of the `reconstruct` objective, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fourm.errors import ConfigError


@dataclass(frozen=True)
class ReconstructConfig:
    """Rebuild an image through a codebook.

    Args:
        loss: distance of the reconstruction; `cross_entropy` for label maps, `cosine` compares directions of pixel
            vectors.
        commit_weight: of the latents' distance to their codes.
    """

    target: ClassVar[str] = "fourm.objectives.reconstruct:Reconstruct"

    loss: Literal["mse", "l1", "smooth_l1", "cross_entropy", "cosine"] = "mse"
    commit_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.commit_weight < 0:
            raise ConfigError(f"commit_weight is {self.commit_weight}; expected 0 or more")
