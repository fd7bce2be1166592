"""Configuration of the contrastive objective, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fourm.errors import ConfigError


@dataclass
class ContrastiveObjectiveConfig:
    """Tell what belongs together from all else in the batch (CLIP, Radford et al. 2021, sec. 2.3).

    For models of `kind: contrastive`. What is compared with a sample are the samples of its micro-batch on all ranks.

    Args:
        pairs: modalities that are compared, two by two, such as `[[image, caption], [image, depth]]`.
        loss: `softmax`: the cross-entropy of finding the other one of a pair, in both directions (CLIP); `sigmoid`: of
            saying of each two whether they are a pair (SigLIP, Zhai et al. 2023), which needs `model.logit_bias`.
        equal_texts: samples with the same text fit one another as well as a pair does: with `softmax` they share the
            target (UniCL, Yang et al. 2022). False: they are told apart, as CLIP does, though nobody could.
        weights: number of a pair, counted from 0 -> factor of its loss; 1 where it has no entry.
    """

    target: ClassVar[str] = "fourm.objectives.contrastive:ContrastiveObjective"

    pairs: list[tuple[str, str]]
    loss: Literal["softmax", "sigmoid"] = "softmax"
    equal_texts: bool = True
    weights: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ConfigError("pairs is empty: name two modalities that are compared, such as [[image, caption]]")
        same = [a for a, b in self.pairs if a == b]
        if same or len({frozenset(pair) for pair in self.pairs}) < len(self.pairs):
            raise ConfigError(f"pairs compares {f'{same[0]} with itself' if same else 'two modalities twice'}")
        wrong = [n for n, weight in self.weights.items() if not 0 <= n < len(self.pairs) or weight < 0]
        if wrong:
            raise ConfigError(f"weights.{wrong[0]}: expected one of the {len(self.pairs)} pairs, and a factor from 0")
