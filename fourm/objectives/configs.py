"""Configuration of the objectives, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range
from fourm.registry import Registry

Keep = Literal["random", "all", "binary"]


@dataclass
class MaskComponent:
    """One component of the masking mixture (4M, sec. 3.2 and A.2).

    Args:
        weight: how often it is drawn.
        input_alphas: modality -> Dirichlet concentration of the input budget; `*` stands for all others. 0 never draws
            it.
        target_alphas: the same for the target budget.
        keep: modality -> how much of a sequence stays visible: `random` (a uniform share), `all`, or `binary` (all or
            nothing).
        min_tokens: modality -> fewest input tokens; budgets are redrawn until they hold.
        num_input_tokens, num_target_tokens, min_input_tokens, min_target_tokens: replace the objective's budgets in
            this component; with a largest budget of its own, a component's budget is fixed unless it has a smallest
            one too.
    """

    weight: float = 1.0
    input_alphas: dict[str, float] = field(default_factory=lambda: {"*": 1.0})
    target_alphas: dict[str, float] = field(default_factory=lambda: {"*": 1.0})
    keep: dict[str, Keep] = field(default_factory=dict)
    min_tokens: dict[str, int] = field(default_factory=dict)
    num_input_tokens: int | None = None
    num_target_tokens: int | None = None
    min_input_tokens: int | None = None
    min_target_tokens: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "weight", "input_alphas", "target_alphas", "min_tokens", least=0)
        check_range(self, "num_input_tokens", "min_input_tokens", "min_target_tokens", least=0)
        check_range(self, "num_target_tokens", least=1)


@dataclass
class MaskedConfig:
    """Predict masked target tokens from visible input tokens (4M, Mizrahi et al. 2023, sec. 2.2).

    Args:
        num_input_tokens, num_target_tokens: largest budgets.
        min_input_tokens, min_target_tokens: smallest budgets; None: the budget is always the largest.
        components: the mixture; one component of concentration 1 by default.
        datasets: name of a data set -> components that its samples draw from instead.
        max_tokens: modality -> longest part of it a sample may use.
        redistribute: hand what a modality cannot take on to the others. The published training loses it.
        reduction: `token`: mean over all predicted tokens; `modality`, or `mod` as it is published: the mean over
            modalities of their means, where modalities without tokens count as zero.
        modality_weights: factor of a modality's loss.
        separate: the decoder's modalities do not see one another.
    """

    target: ClassVar[str] = "fourm.objectives.masked:Masked"

    num_input_tokens: int = 128
    num_target_tokens: int = 128
    min_input_tokens: int | None = None
    min_target_tokens: int | None = None
    components: list[MaskComponent] = field(default_factory=lambda: [MaskComponent()])
    datasets: dict[str, list[MaskComponent]] = field(default_factory=dict)
    max_tokens: dict[str, int] = field(default_factory=dict)
    redistribute: bool = False
    reduction: Literal["token", "modality", "mod"] = "token"
    modality_weights: dict[str, float] = field(default_factory=dict)
    separate: bool = True

    def __post_init__(self) -> None:
        check_range(self, "num_input_tokens", "num_target_tokens", "max_tokens", least=1)
        check_range(self, "modality_weights", least=0)
        check_range(self, "min_input_tokens", least=0, most=self.num_input_tokens)
        check_range(self, "min_target_tokens", least=0, most=self.num_target_tokens)
        for key, components in (
            ("components", self.components),
            *((f"datasets.{name}", own) for name, own in self.datasets.items()),
        ):
            if not any(c.weight > 0 for c in components):
                raise ConfigError(f"{key}: at least one needs a weight above 0")


@dataclass
class AutoregressiveConfig:
    """Predict every token of a row from those before it (LVM, Bai et al. 2023; AIM, El-Nouby et al. 2024).

    For models without an encoder (`model.encoder_depth: 0`). All modalities are read; those whose direction is not
    `input` are predicted: ids by cross-entropy, vectors by their squared error, averaged over their numbers.

    Args:
        order: modalities of a sample in the order of the row; empty: all, in the order of the recipe. Data sets that
            give documents have an order of their own.
        shuffle: draw another order for each sample.
        max_tokens: most tokens that a row reads; samples are cut to it. None: what the modalities can have.
        prefix: `uniform`: the first tokens of a document see one another and are not asked, from one to all but one of
            them (AIM, sec. 3.3); `none`: every token sees what comes before it; `fed`: so it is in the row, but in the
            trunk that reads an image first (`model.feeders`) the first patches see one another, and are not asked
            (AIMv2, Fini et al. 2024).
        skip_ids: ids that are read and never asked; DeLVM's published training leaves out 0, of its first code.
        standardize: predict vectors less their mean, over their standard deviation, as AIM predicts patches of pixels.
        regress_end: the last vector of an image that the model makes vectors of (`layout.kind: slots`) asks for the
            embedding of the token behind it, `[/IMG]`, in place of this token, as Emu's published code does; the
            vectors must be of the model's width.
        reduction, modality_weights: of the loss, see `MaskedConfig`; `weighted` is the sum over modalities of weight
            times mean.
    """

    target: ClassVar[str] = "fourm.objectives.autoregressive:Autoregressive"

    order: list[str] = field(default_factory=list)
    shuffle: bool = False
    max_tokens: int | None = None
    prefix: Literal["none", "uniform", "fed"] = "none"
    skip_ids: list[int] = field(default_factory=list)
    standardize: bool = False
    regress_end: bool = False
    reduction: Literal["token", "modality", "mod", "weighted"] = "token"
    modality_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(self, "max_tokens", least=1)
        check_range(self, "skip_ids", least=0)
        check_range(self, "modality_weights", least=0)


OBJECTIVES = Registry(
    "objective",
    {
        "autoregressive": "fourm.objectives.configs:AutoregressiveConfig",
        "contrastive": "fourm.objectives.contrastive_config:ContrastiveObjectiveConfig",
        "distill": "fourm.objectives.distill_config:DistillConfig",
        "masked": "fourm.objectives.configs:MaskedConfig",
        "reconstruct": "fourm.objectives.reconstruct_config:ReconstructConfig",
        "estimate": "fourm.objectives.reconstruct_config:EstimateConfig",
    },
)
