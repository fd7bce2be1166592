"""Configuration of contrastive models, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fourm.config import slot
from fourm.errors import ConfigError
from fourm.nn.vision_configs import TOWERS
from fourm.ranges import check_range

Pool = Literal["mean", "first", "last", "query"]


@dataclass
class ContrastiveTowerConfig:
    """What makes one vector of a modality.

    Args:
        encoder: `kind: model`, a trunk of ours for any modality, trained already (`path`) or new; or `kind: timm`, a
            vision transformer, for images.
        pool: which of its outputs that vector is made of: their `mean`; the `first`, CLIP's class token; the `last`,
            the end of a text in CLIP; or what a learned `query` attends to.
    """

    encoder: Any = slot(TOWERS)
    pool: Pool = "mean"


@dataclass
class ContrastiveConfig:
    """Towers whose vectors of what belongs together are alike (CLIP, Radford et al. 2021).

    Args:
        dim: of the vectors that are compared.
        towers: modality -> its tower, behind which a matrix without bias leads to `dim`.
        logit_scale: what cosines are multiplied by at first, the inverse of a temperature; it is learned. 1 / .07 in
            CLIP, 10 in SigLIP.
        max_logit_scale: most that it may become; None: anything.
        logit_bias: learned number that is added, for the sigmoid loss, -10 at first (SigLIP, Zhai et al. 2023); None:
            there is none.
        init_std: standard deviation of new linear layers; None: Xavier-uniform.
    """

    target: ClassVar[str] = "fourm.models.contrastive:Contrastive"

    dim: int
    towers: dict[str, ContrastiveTowerConfig]
    logit_scale: float = 1 / 0.07
    max_logit_scale: float | None = 100.0
    logit_bias: float | None = None
    init_std: float | None = None

    def __post_init__(self) -> None:
        check_range(self, "dim", least=1)
        check_range(self, "logit_scale", "max_logit_scale", "init_std", above=0)
        if len(self.towers) < 2:
            raise ConfigError(f"towers has {len(self.towers)} modalities; at least two are compared")
        if self.max_logit_scale is not None and self.logit_scale > self.max_logit_scale:
            raise ConfigError(f"logit_scale is {self.logit_scale}, above max_logit_scale {self.max_logit_scale}")
