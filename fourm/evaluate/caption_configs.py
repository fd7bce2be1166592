"""How captions and pictures of captions are measured, and the classifier that looks at pictures; free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fourm.errors import ConfigError
from fourm.generate.phrases import phrases_of
from fourm.ranges import check_range


@dataclass
class ClassifierConfig:
    """The classifier that judges generated pictures (`kind: fashion | captions`).

    Args:
        widths: channels of its three convolutions.
        epochs: passes over the training pictures.
        batch_size: pictures per step.
        lr: peak learning rate.
        seed: of weights and order.
    """

    widths: tuple[int, int, int] = (32, 64, 96)
    epochs: int = 5
    batch_size: int = 128
    lr: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "widths", "epochs", "batch_size", least=1)
        check_range(self, "lr", above=0)


@dataclass
class CaptionsEvaluation:
    """Measure the captions that a model of documents writes of pictures, and the pictures that it paints of captions.

    A caption is right where it names some of `words`, and none that is not there. What is there: in a real picture what
    any of its own captions names, in a painted one what a classifier sees that knows real pictures alone.

    Args:
        kind: `captions`.
        model: model folder, output folder of a pretraining run, or repository on the Hub.
        data: file of held-out pairs, `captions.jsonl` of `fourm prepare documents`.
        train: the same of training pictures, for the classifier.
        words: that are looked for, singular.
        output: folder for `metrics.json`, `report.html` and `pictures/`.
        painter: visual decoder to paint with; None: the one that the model came with.
        judge: folder of the classifier, which several evaluations may share; None: `judge` in the output.
        classifier: its sizes and training.
        num_samples: held-out pairs used, the first ones; None: all.
        num_train: pairs that the classifier learns from; None: all.
        num_prompts: captions that are painted, of the first pairs.
        start: token before every prompt, empty: none; None: as the documents of the model begin.
        phrases: how a caption and a picture are asked for: a name, or texts such as
            `{caption: "<image>what is this?"}`, see `fourm.generate.phrases`; None: as it is saved with the model.
        bare_images: images stand without `[IMG]` and `[/IMG]` around them; None: as in the documents of the model.
        guided: guidance moves away from what follows the empty prompt (Emu).
        guidance, num_steps: of the painter; None: as it was saved.
        max_tokens: of a caption.
        seed: of everything that is drawn.
        batch_size: pictures at a time.
        device: auto, cuda, mps or cpu.
        num_pictures: rows of the grids in the report.
    """

    kind: Literal["captions"]
    model: Path
    data: Path
    train: Path
    words: list[str]
    output: Path = Path("outputs/captions")
    painter: Path | None = None
    judge: Path | None = None
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    num_samples: int | None = None
    num_train: int | None = None
    num_prompts: int = 200
    start: str | None = None
    phrases: Any = None
    bare_images: bool | None = None
    guided: bool = False
    guidance: float | None = None
    num_steps: int | None = None
    max_tokens: int = 48
    seed: int = 0
    batch_size: int = 50
    device: str = "auto"
    num_pictures: int = 10

    def __post_init__(self) -> None:
        check_range(self, "num_samples", "num_train", "num_prompts", "num_steps", "max_tokens", "batch_size", least=1)
        check_range(self, "num_pictures", least=0)
        phrases_of(self.phrases)
        if not self.words:
            raise ConfigError("words is empty: name what is looked for in captions and pictures, such as [bed, lamp]")
